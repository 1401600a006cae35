"""LoRA: a trained low-rank update B A added to each frozen weight W, through `peft`.

    W x + alpha / rank * B A x
Only adapters (and learnable scalars of the loss) train, so gradients, optimiser state and checkpoints are small, and
much of what the base knew stays. Source: Hu et al. 2021 (LoRA, arXiv 2106.09685).
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder

FOLDER = "adapter"
POOLER = r"(.*\.)?pooler\..*"  # embeddings do not depend on it, so an adapter there would never get a gradient


class LoraConfig(Config):
    """Rank and scale of the adapters, and which layers get one."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the input of the adapters")
    targets: list[str] | None = Field(
        None, min_length=1, description="ends of module names; default: all linear layers"
    )


def attach_adapters(encoder: Encoder, config: LoraConfig, seed: int) -> Any:
    """Freeze the encoder and add adapters to it, in place; returns the peft model.

    B starts as zero, A is drawn by `seed` alone. Raises UserError without peft, or where no layer fits `targets`.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError("lora: needs peft; install it with `pip install 'tripletail[lora]'`") from error
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets or "all-linear",
        exclude_modules=POOLER,
    )
    with torch.random.fork_rng(devices=[encoder.device] if encoder.device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(encoder.transformer, settings)
        except ValueError as error:
            kinds = {name.rsplit(".", 1)[-1] for name, part in encoder.transformer.named_modules() if _is_linear(part)}
            raise UserError(
                f"lora.targets {config.targets}: no layer of this model has such a name; "
                f"it has {', '.join(sorted(kinds))}"
            ) from error


def merge_adapters(encoder: Encoder, adapters: Any, name: str, alpha: float = 1.0) -> dict[str, bytes]:
    """Merge the adapters into the weights; returns the files of the adapters, by their path in the model directory.

    `SentenceTransformer(base).load_adapter(model_dir + "/adapter")` gives the same vectors as the merged weights.
    `name` is the name of the base in those files; `alpha` scales the adapters first (WiSE-FT, as for full weights).
    """
    with torch.no_grad():
        for key, value in encoder.named_parameters():
            if ".lora_B." in key:
                value.mul_(alpha)
    settings = adapters.peft_config["default"]
    settings.base_model_name_or_path = name
    with tempfile.TemporaryDirectory() as folder:
        adapters.save_pretrained(folder, save_embedding_layers=False)
        config = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
        weights = Path(folder, "adapter_model.safetensors").read_bytes()
    config |= {"target_modules": sorted(adapters.targeted_module_names), "exclude_modules": None}
    encoder.transformer = adapters.merge_and_unload()
    return {
        f"{FOLDER}/adapter_config.json": (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        f"{FOLDER}/adapter_model.safetensors": weights,
    }


def _is_linear(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.Linear)
