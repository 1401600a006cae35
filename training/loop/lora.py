"""LoRA and other adapters of `peft`; by default a trained low-rank update B A added to each frozen weight W.

    W x + alpha / rank * B A x
Only adapters (and learnable scalars of the loss) train, so gradients, optimiser state and checkpoints are small, and
much of what the base knew stays. Source: Hu et al. 2021 (LoRA, arXiv 2106.09685).
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.core.plugins import nearest
from pipeline.encoder.encoder import Encoder

FOLDER = "adapter"
LORA: dict[str, list[str]] = {"lora": [], "dora": ["use_dora"], "rslora": ["use_rslora"]}  # flags of peft.LoraConfig
POOLER = r"(.*\.)?pooler\..*"  # embeddings do not depend on it, so an adapter there would never get a gradient


class LoraConfig(Config):
    """Rank and scale of the adapters, and which layers get one."""

    method: str = Field(
        "lora", description="lora, dora, rslora, or another method of peft by name: loha, lokr, oft, ia3, ..."
    )
    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the input of the adapters")
    targets: list[str] | None = Field(
        None, min_length=1, description="ends of module names; default: all linear layers"
    )
    options: dict[str, Any] = Field({}, description="further settings of the method, by the names that peft has")
    base_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the frozen weights while training; bfloat16 takes half the memory"
    )

    @model_validator(mode="after")
    def _fits(self) -> "LoraConfig":
        given = sorted({"rank", "alpha", "dropout"} & self.model_fields_set)
        if self.method not in LORA and given:
            raise ValueError(f"{given[0]} is a setting of lora; give those of {self.method} in options")
        return self


def attach_adapters(encoder: Encoder, config: LoraConfig, seed: int) -> Any:
    """Freeze the encoder and add adapters to it, in place; returns the peft model.

    B starts as zero, A is drawn by `seed` alone. Raises UserError without peft, or where no layer fits `targets`.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError("lora: needs peft; install it with `pip install 'tripletail[lora]'`") from error
    settings = _peft_settings(config)
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


def _peft_settings(config: LoraConfig) -> Any:
    """Settings of peft for a method; raises UserError for one that it does not have, or whose options are others."""
    import peft

    layers = {"target_modules": config.targets or "all-linear", "exclude_modules": POOLER}
    if config.method in LORA:
        scales = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
        kind, settings = peft.LoraConfig, {**scales, **{flag: True for flag in LORA[config.method]}}
    else:
        kinds = {
            getattr(name, "value", str(name)).lower(): kind
            for name, kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()
            if {"target_modules", "exclude_modules"} <= set(kind.__dataclass_fields__)
        }
        if config.method not in kinds:
            names = sorted({*LORA, *kinds})
            raise UserError(
                f"lora.method {config.method}: peft {peft.__version__} has no such adapters"
                f"{nearest(config.method, names)}; choose from {', '.join(names)}"
            )
        kind, settings = kinds[config.method], {}
    try:
        return kind(**settings, **layers, **config.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"lora.options {config.options}: not those of {config.method} ({error})") from error


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
