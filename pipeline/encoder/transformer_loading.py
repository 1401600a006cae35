"""Load the transformer and the tokenizer of a model directory: any architecture, weights that cannot carry code.

Safetensors are taken where there are any, else `.bin` files, read with `weights_only=True`, which refuses anything but
tensors. A weight that the files lack is an error and never a random number.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.progress import say_once
from pipeline.encoder.model_directory import ADAPTER, adapter_base, adapter_bases, file_names
from pipeline.encoder.transformer_settings import TransformerSettings

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)
WEIGHT_SUFFIXES = (".safetensors", ".bin")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_BINARY_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
_UNUSED = ("pooler.", "position_ids")  # weights that no vector follows from


def require_files(folder: str) -> None:
    """Raise UserError where a model directory, with an adapter's base, lacks weights or a tokenizer."""
    names = [name for part in [folder, *adapter_bases(Path(folder))] for name in file_names(Path(part))]
    for suffixes, kind in ((WEIGHT_SUFFIXES, "weights"), (TOKENIZER_FILES, "tokenizer")):
        if not any(name.endswith(suffixes) for name in names):
            raise UserError(f"model {folder}: has no {kind} (no {' or '.join(suffixes)})")


def load_parts(
    path: str,
    subfolder: str,
    layers: int | None,
    *,
    attention: str | None = None,
    trust_remote_code: bool,
    settings: TransformerSettings | None = None,
) -> tuple[Any, Any]:
    """Load tokenizer and transformer (float32, the first `layers` only).

    Raises UserError where a file is missing, the model cannot be loaded, or its code would have to be run and
    `trust_remote_code` does not allow it.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    root, stated = Path(path) / subfolder, settings or TransformerSettings()
    with _one_line(path):
        if (root / ADAPTER).exists():
            return _load_with_adapter(path, root, layers, attention, stated, trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(path, root, stated, trust_remote_code=trust_remote_code)
        return tokenizer, _load_transformer(
            path, root, layers, attention, stated.config_options, trust_remote_code=trust_remote_code
        )


@contextmanager
def _one_line(path: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        raise UserError(f"model {path}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def load_tokenizer(path: str, root: Path, settings: TransformerSettings, *, trust_remote_code: bool) -> Any:
    """Load the tokenizer of a folder; raises UserError where it has none."""
    from transformers import AutoTokenizer

    if not any((root / name).exists() for name in TOKENIZER_FILES) and not any(root.glob("tokenization_*.py")):
        raise UserError(f"model {path}: has no tokenizer (no {', '.join(TOKENIZER_FILES)})")
    options = {"trust_remote_code": trust_remote_code, **settings.tokenizer_options}
    tokenizer = AutoTokenizer.from_pretrained(root, **options)
    if settings.lower_case:
        _lower_case(tokenizer)
    return tokenizer


def _lower_case(tokenizer: Any) -> None:
    """Have a tokenizer lower its texts first, as the setting `do_lower_case` of Sentence Transformers does."""
    from tokenizers import normalizers

    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        tokenizer.do_lower_case = True
        return
    present = fast.normalizer
    steps: list[Any] = [] if present is None else [present]
    if isinstance(present, normalizers.Sequence):
        steps = [present[index] for index in range(len(present))]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        fast.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def _load_transformer(
    path: str,
    root: Path,
    layers: int | None,
    attention: str | None,
    config_options: dict[str, Any],
    *,
    trust_remote_code: bool,
) -> Any:
    from transformers import AutoConfig

    safe = _has(root, _WEIGHTS)
    if not safe and not _has(root, _BINARY_WEIGHTS):
        raise UserError(f"model {path}: has no *.safetensors and no pytorch_model.bin")
    config = AutoConfig.from_pretrained(root, trust_remote_code=trust_remote_code, **config_options)
    if not trust_remote_code and (own := (getattr(config, "auto_map", None) or {}).get("AutoModel")):
        say_once(
            f"model {path}: its own code ({own}) is not run, transformers' {config.model_type} computes in its place; "
            "encoder.trust_remote_code runs it"
        )
    if layers:
        cut_layers(config, layers)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    config.return_dict = True  # a configuration may say otherwise; states are taken by name here
    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    load = _model_class(path, config, trust_remote_code=trust_remote_code)
    try:
        return _load_weights(path, load, root, config, options | {"use_safetensors": safe})
    except ValueError as error:
        if not attention or attention not in str(error):
            raise
    return _load_weights(path, load, root, config, {"use_safetensors": safe})


def _has(root: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(root.glob(pattern), None) is not None for pattern in patterns)


def _model_class(path: str, config: Any, *, trust_remote_code: bool) -> Callable[..., Any]:
    import transformers

    if config.model_type in _ENCODERS:
        load: Callable[..., Any] = getattr(transformers, _ENCODERS[config.model_type]).from_pretrained
        return load
    if getattr(config, "is_encoder_decoder", False):
        known = ", ".join(_ENCODERS)
        raise UserError(
            f"model {path}: of encoder-decoder models those of {known} are supported, not {config.model_type}"
        )

    def load_any(root: Path, **options: Any) -> Any:
        return transformers.AutoModel.from_pretrained(root, trust_remote_code=trust_remote_code, **options)

    return load_any


def _load_weights(path: str, load: Callable[..., Any], root: Path, config: Any, options: dict[str, Any]) -> Any:
    model, info = load(root, config=config, dtype="float32", output_loading_info=True, **options)
    missing = sorted(name for name in info["missing_keys"] if not any(part in name for part in _UNUSED))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"model {path}: its files lack the weights {', '.join(missing[:3])}{more}")
    return model


def cut_layers(config: Any, layers: int) -> None:
    """Keep the first layers of a model's configuration, in every list that has one entry a layer.

    Raises UserError for more layers than it has.
    """
    count = config.num_hidden_layers
    if layers > count:
        raise UserError(f"encoder.layers {layers}: the model has {count}")
    config.num_hidden_layers = layers
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list | tuple) and len(value) == count:
            setattr(config, name, value[:layers])


def _load_with_adapter(
    path: str,
    root: Path,
    layers: int | None,
    attention: str | None,
    settings: TransformerSettings,
    *,
    trust_remote_code: bool,
) -> tuple[Any, Any]:
    """Load the base that an adapter's folder names, and merge the adapter into it."""
    try:
        import peft
    except ImportError as error:
        raise UserError(f"model {path}: holds an adapter; install `pip install 'tripletail[lora]'`") from error
    base = adapter_base(root)
    own = any((root / name).exists() for name in TOKENIZER_FILES)
    source = root if own else Path(base)
    tokenizer = load_tokenizer(path, source, settings, trust_remote_code=trust_remote_code)
    options = settings.config_options
    model = _load_transformer(base, Path(base), None, attention, options, trust_remote_code=trust_remote_code)
    adapted = peft.PeftModel.from_pretrained(model, str(root))
    if not hasattr(adapted, "merge_and_unload"):
        raise UserError(f"model {path}: its adapter is of a kind that cannot be merged into the weights")
    merged = adapted.merge_and_unload().requires_grad_(True)  # peft had frozen the base
    if layers:
        raise UserError(f"model {path}: encoder.layers cannot cut a model that is an adapter; merge and save it first")
    return tokenizer, merged
