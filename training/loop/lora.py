"""Low-rank adapters: beside each frozen weight W a trained B A of small rank, through `peft`.

    W x + alpha / rank * B A x
Only adapters (and the loss's scalars) train, so gradients, optimiser state and checkpoints are small, and much of what
the base knew stays. Source: Hu et al. 2021 (LoRA, arXiv 2106.09685).
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
POOLER = r"(.*\.)?pooler\..*"  # takes no part in a vector, so an adapter there would never get a gradient


class LoraConfig(Config):
    """How large the adapters are, and where."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0, description="adapters count alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what goes into the adapters")
    targets: list[str] | None = Field(
        None, min_length=1, description="ends of module names; default: all linear layers"
    )


def attach(encoder: Encoder, config: LoraConfig, seed: int) -> Any:
    """Freeze the encoder and put adapters into it, in place; returns peft's handle on them.

    They start as zero, A drawn by `seed` alone. Raises UserError without peft, or where no layer fits `targets`.
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
            kinds = {name.rsplit(".", 1)[-1] for name, part in encoder.transformer.named_modules() if _linear(part)}
            raise UserError(
                f"lora.targets {config.targets}: no layer of this model ends so; it has {', '.join(sorted(kinds))}"
            ) from error


def merge(encoder: Encoder, adapters: Any, name: str, share: float = 1.0) -> dict[str, bytes]:
    """Add the adapters into the weights and take them out; returns their files, below the model directory.

    `SentenceTransformer(base).load_adapter(model_dir + "/adapter")` gives the same vectors as the merged weights.
    `name` is what the base is called there; `share` scales the adapters first (WiSE-FT, as for whole weights).
    """
    with torch.no_grad():
        for key, value in encoder.named_parameters():
            if ".lora_B." in key:
                value.mul_(share)
    settings = adapters.peft_config["default"]
    settings.base_model_name_or_path = name
    with tempfile.TemporaryDirectory() as folder:
        adapters.save_pretrained(folder, save_embedding_layers=False)
        described = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
        weights = Path(folder, "adapter_model.safetensors").read_bytes()
    described |= {"target_modules": sorted(adapters.targeted_module_names), "exclude_modules": None}
    encoder.transformer = adapters.merge_and_unload()
    return {
        f"{FOLDER}/adapter_config.json": (json.dumps(described, indent=2, sort_keys=True) + "\n").encode(),
        f"{FOLDER}/adapter_model.safetensors": weights,
    }


def _linear(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.Linear)
