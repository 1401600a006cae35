"""The layout of a model directory: the list of its modules as the files say, read whole or refused by name.

    layout = read_layout("path/to/model")
    [entry.kind for entry in layout.modules]  # ["Transformer", "Pooling", "Normalize"]

A directory without `modules.json` is a plain transformer, whose states are averaged and scaled to length 1; of a causal
language model the last token's state is taken, as in Sentence Transformers.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import UserError
from pipeline.encoder.model_settings import LENGTHS, ModelSettings
from pipeline.encoder.modules.registry import INPUT_MODULES, KINDS, VECTOR_MODULES, kind_of, type_of
from pipeline.encoder.pooling import WIDTH_KEYS, Modes, mode_names, pooling_config, read_pooling
from pipeline.encoder.transformer_settings import TransformerSettings

SETTINGS_FILE = "config_sentence_transformers.json"


@dataclass(frozen=True)
class ModuleEntry:
    """One module of a model directory: its kind, its folder below the directory, and its settings as they were read."""

    kind: str
    path: str
    type: str
    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class Chain:
    """One way from a text to a vector: an input module, pooling after a transformer, then modules on vectors."""

    modules: tuple[ModuleEntry, ...]

    @property
    def input(self) -> ModuleEntry:
        """The module that takes texts."""
        return self.modules[0]

    @property
    def static(self) -> bool:
        """Whether its input module is a StaticEmbedding, which needs no pooling."""
        return self.input.kind == "StaticEmbedding"

    @property
    def pooling_entry(self) -> ModuleEntry | None:
        """The Pooling module; None for a static one."""
        return None if self.static else self.modules[1]

    @property
    def pooling(self) -> Modes:
        """Modes of pooling; a static encoder takes the mean."""
        return read_pooling(self.pooling_entry.config) if self.pooling_entry else "mean"

    @property
    def include_prompt(self) -> bool:
        """Whether a prompt's tokens are pooled."""
        return bool(self.pooling_entry.config.get("include_prompt", True)) if self.pooling_entry else True

    @property
    def head(self) -> tuple[ModuleEntry, ...]:
        """The modules on vectors."""
        return self.modules[1 if self.static else 2 :]

    def with_pooling(self, modes: Modes, dim: int, *, include_prompt: bool) -> "Chain":
        """Chain that pools states of `dim` dimensions by these modes; its own settings stay where they say the same."""
        entry = self.pooling_entry
        if entry is None:
            return self
        stated = any(name in entry.config for name in WIDTH_KEYS)
        if stated and (self.pooling, self.include_prompt) == (modes, include_prompt):
            return self
        changed = replace(entry, config=pooling_config(modes, dim, include_prompt=include_prompt))
        return Chain((self.input, changed, *self.head))


@dataclass(frozen=True)
class Layout:
    """What the files of a model directory say of its modules and of the model as a whole."""

    modules: tuple[ModuleEntry, ...]
    settings: ModelSettings = field(default_factory=ModelSettings)

    @property
    def routed(self) -> bool:
        """Whether queries and documents may go separate ways."""
        return self.modules[0].kind in ("Router", "Asym")

    @property
    def chain(self) -> Chain:
        """The one way of a layout without a router."""
        return Chain(self.modules)

    @property
    def normalize(self) -> bool:
        """Whether vectors come out scaled to length 1."""
        return self.modules[-1].kind == "Normalize"

    @property
    def pooling_text(self) -> str:
        """Modes of pooling in words; the content of the files says them again, whatever the modules."""
        if self.routed or self.modules[0].kind == "custom":
            return self.modules[0].kind
        excluded = "" if self.chain.include_prompt else ", without prompt"
        return "+".join(mode_names(self.chain.pooling)) + excluded

    def with_max_lengths(self, lengths: Mapping[str, int]) -> "Layout":
        """Layout that states the lengths of the roles where they differ; one length for all is the input module's."""
        if len(set(lengths.values())) == 1:
            return replace(self, settings=self.settings.without(LENGTHS))
        return replace(self, settings=self.settings.with_values({LENGTHS: dict(lengths)}))

    def of_roles(self, roles: Collection[str]) -> "Layout":
        """Layout of a router's way that some roles take: the lengths of other roles are not its own."""
        lengths = {role: length for role, length in self.settings.max_lengths.items() if role in roles}
        stated = self.settings.with_values({LENGTHS: lengths}) if lengths else self.settings.without(LENGTHS)
        return replace(self, settings=stated)

    def role_prompts(
        self, overrides: Mapping[str, str] | None, names: Mapping[Any, str] | None = None
    ) -> dict[str, str]:
        """Prompt of each role, "" where there is none; `overrides` win over the directory's."""
        return self.settings.with_prompts(overrides).role_prompts(names)


def default_layout(kind: str, head: Sequence[str] = ("Normalize",)) -> Layout:
    """Layout of a model that is made here: an input module of this kind, pooling for a transformer, then `head`."""
    kinds = [kind, *(["Pooling"] if kind == "Transformer" else []), *head]
    return Layout(
        tuple(
            ModuleEntry(each, f"{index}_{each}" if index else "", type_of(each), name=str(index))
            for index, each in enumerate(kinds)
        )
    )


def custom_types(path: str) -> list[str]:
    """List the types of modules that a directory names and that are not known here: they bring code of their own."""
    file = Path(path) / "modules.json"
    modules = read_json(file) if file.exists() else []
    return [str(module.get("type")) for module in modules if kind_of(str(module.get("type"))) is None]


def read_settings(path: str) -> ModelSettings:
    """Read what a directory says of the model as a whole."""
    return ModelSettings.read(_read_optional(Path(path) / SETTINGS_FILE))


def read_layout(path: str) -> Layout:
    """Read the JSON files of a model directory.

    Raises UserError for files that cannot be read and, by their full names, for types of modules, keys and values that
    are not known.
    """
    root = Path(path)
    try:
        settings = read_settings(path)
        if not (root / "modules.json").exists():
            return replace(_plain_layout(root), settings=settings)
        modules = tuple(_read_entry(root, module) for module in read_json(root / "modules.json"))
        if not modules:
            raise UserError("modules.json names no module")
        if modules[0].kind not in ("Router", "Asym"):
            check_chain(modules)
        return Layout(modules, settings)
    except UserError as error:
        raise UserError(f"model {path}: {str(error).removeprefix(f'model {path}: ')}") from error


def _plain_layout(root: Path) -> Layout:
    """Layout of a directory without `modules.json`: model2vec's, whose `config.json` says so, or a transformer's."""
    config = _plain_config(root)
    architectures = [str(name) for name in config.get("architectures") or []]
    if config.get("model_type") == "model2vec" or "StaticModel" in architectures:
        return default_layout("StaticEmbedding", () if config.get("normalize") is False else ("Normalize",))
    layout = default_layout("Transformer")
    causal = bool(architectures) and architectures[0].endswith("ForCausalLM") and config.get("is_causal", True)
    if not causal:
        return layout
    first, pooled, *rest = layout.modules
    return replace(layout, modules=(first, replace(pooled, config={"pooling_mode": "lasttoken"}), *rest))


def _plain_config(root: Path) -> dict[str, Any]:
    """Content of a directory's `config.json`, or of that of the base that its adapter names."""
    from pipeline.encoder import model_directory

    adapted = (root / model_directory.ADAPTER).exists() and not (root / "config.json").exists()
    return _read_optional((Path(model_directory.adapter_base(root)) if adapted else root) / "config.json")


def check_chain(modules: Sequence[ModuleEntry]) -> Chain:
    """Return modules as a chain; raises UserError where one stands in a place in which it has no meaning."""
    first, rest = modules[0], list(modules[1:])
    if first.kind not in INPUT_MODULES:
        raise UserError(f"module '{first.type}' cannot come first; {' and '.join(INPUT_MODULES)} take texts")
    if first.kind == "Transformer":
        if not rest or rest[0].kind != "Pooling":
            raise UserError("has no Pooling module after its Transformer; its token states make no vector of a text")
        rest = rest[1:]
    for entry in rest:
        if entry.kind not in VECTOR_MODULES:
            raise UserError(f"module '{entry.type}' at this place of the chain is not supported")
    return Chain(tuple(modules))


def _read_entry(root: Path, module: Mapping[str, Any]) -> ModuleEntry:
    """Read one entry of modules.json and the settings in its folder."""
    try:
        type_name, path = str(module["type"]), str(module["path"])
    except KeyError as error:
        raise UserError(f"modules.json: a module lacks {error}") from error
    unknown = sorted(set(module) - {"idx", "name", "path", "type", "kwargs"})
    if unknown or module.get("kwargs"):
        raise UserError(f"modules.json: {', '.join(unknown) or 'kwargs'} of module '{type_name}' is not supported")
    return read_module(root, type_name, path, str(module.get("name", "")))


def read_module(root: Path, type_name: str, path: str, name: str = "") -> ModuleEntry:
    """Read the settings of a module of this type; raises UserError for a type or a key that is not known."""
    kind = kind_of(type_name)
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise UserError(f"modules.json: path '{path}' leads out of the directory")
    if kind is None:
        raise UserError(
            f"module '{type_name}' is not supported; {', '.join(KINDS)} of Sentence Transformers are, and others "
            "where encoder.trust_remote_code is given"
        )
    if kind == "Transformer":
        return ModuleEntry(kind, path, type_name, TransformerSettings.read_folder(root / path).as_read(), name)
    if kind in ("Router", "Asym"):
        files = [root / path / file for file in ("router_config.json", "config.json")]
        config = next((read_json(file) for file in files if file.exists()), None)
        if config is None:
            raise UserError(f"module '{type_name}': has no router_config.json")
        return ModuleEntry(kind, path, type_name, config, name)
    config = {} if kind == "StaticEmbedding" else _read_optional(root / path / "config.json")
    if kind == "Pooling":
        read_pooling(config)
    return ModuleEntry(kind, path, type_name, config, name)


def read_json(path: Path) -> Any:
    """Content of a JSON file; raises UserError with its path where it is not readable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"model file {path}: not readable: {error}") from error


def _read_optional(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.exists() else {}
