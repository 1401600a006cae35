"""The number of layers of a model directory, read from its files alone: nothing is loaded."""

import json
from pathlib import Path

from pipeline.encoder.config import EncoderConfig
from pipeline.encoder.model_directory import ADAPTER, adapter_base, resolve_model

_NAMES = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")  # BERT and most, DistilBERT, GPT-2, T5


def count_layers(folder: str) -> int | None:
    """Layers of the transformer in a model directory; None of a model without one, or with several.

    Example:
        count_layers("path/to/all-MiniLM-L6-v2")  # 6
    """
    root = next((path for path in (Path(folder), *sorted(Path(folder).glob("0_*"))) if _holds_config(path)), None)
    if root is None:
        return None
    if (root / ADAPTER).exists():
        return count_layers(adapter_base(root))
    try:
        config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    numbers = [config.get(name) for name in _NAMES] if isinstance(config, dict) else []
    return next((number for number in numbers if isinstance(number, int)), None)


def _holds_config(path: Path) -> bool:
    return (path / ADAPTER).exists() or (path / "config.json").exists()


def kept_layers(config: EncoderConfig, begun_with: EncoderConfig | None = None) -> dict[str, int]:
    """Layers that an encoder has, and of how many: {"layers": 3, "of": 6}; empty where it has no count.

    `begun_with` are the settings that a trained model was cut by, since its own directory holds what was kept alone.
    """
    count = count_layers(resolve_model(config.model, revision=config.revision))
    if count is None:
        return {}
    layers, total = min(config.layers or count, count), count
    if begun_with and begun_with.layers:
        total = max(total, kept_layers(begun_with).get("of", total))
    return {"layers": layers, "of": total}


def is_cut(config: EncoderConfig) -> bool:
    """Whether settings leave out layers or dimensions of their model."""
    facts = kept_layers(config) if config.layers else {}
    return bool(config.truncate_dim) or (config.layers is not None and facts.get("of") != config.layers)
