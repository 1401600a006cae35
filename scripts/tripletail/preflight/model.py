"""Whether a model can be loaded, told from its files: configuration, weights, tokenizer, layers and length."""

import json
from importlib.util import find_spec
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.encoder.config import EncoderConfig
from pipeline.encoder.layer_count import kept_layers
from pipeline.encoder.layout import read_layout
from pipeline.encoder.model_directory import resolve_model
from pipeline.encoder.transformer_loading import WEIGHT_SUFFIXES, require_files
from pipeline.report.format import layers

from .ahead import Ahead


def check_model(encoder: EncoderConfig, ahead: Ahead) -> str:
    """Check the model of an encoder and describe it, such as "gt:all-minilm-l6-v2, 3 of 6 layers".

    One that a job before leaves is taken on trust. Raises UserError where there is no such model, where weights or
    tokenizer are missing, and for layers or a length that it does not have.
    """
    if ahead.has(encoder.model):
        return f"{encoder.model} (to be trained)"
    folder = resolve_model(encoder.model, revision=encoder.revision, trust_remote_code=encoder.trust_remote_code)
    if not encoder.trust_remote_code:
        read_layout(folder)
        require_files(folder)
    if encoder.attention == "flash_attention_2" and not find_spec("flash_attn"):
        raise UserError(
            "encoder.attention flash_attention_2: needs a GPU and the package flash-attn; choose auto, sdpa or varlen"
        )
    facts = kept_layers(encoder)
    if encoder.layers and encoder.layers > facts.get("of", encoder.layers):
        raise UserError(f"encoder.layers {encoder.layers}: the model has {facts['of']}")
    _check_length(encoder, Path(folder))
    size = layers(facts)
    return f"{encoder.model}, {size}" if size else encoder.model


def _check_length(encoder: EncoderConfig, folder: Path) -> None:
    file = next(
        (path for path in (folder / "config.json", *sorted(folder.glob("0_*/config.json"))) if path.exists()), None
    )
    config = json.loads(file.read_text(encoding="utf-8")) if file else {}
    positions = config.get("max_position_embeddings") or 0
    if encoder.longest and 0 < positions < encoder.longest:
        raise UserError(f"encoder.max_length {encoder.longest} is beyond the model's {positions} positions")


def weight_bytes(encoder: EncoderConfig, ahead: Ahead) -> int:
    """Bytes of a model's weights on the disk; 0 of one that is not there yet."""
    if ahead.has(encoder.model):
        return 0
    folder = Path(resolve_model(encoder.model, revision=encoder.revision))
    sizes = {suffix: sum(path.stat().st_size for path in folder.rglob(f"*{suffix}")) for suffix in WEIGHT_SUFFIXES}
    return sizes[".safetensors"] or sizes[".bin"]
