"""A job's settings as a list: what help shows of them, and which one a misspelt name is nearest to.

A setting's path is what a recipe and a flag call it: `loop.epochs` is `loop: {epochs: 3}` and `--loop.epochs 3`.
"""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.core.plugins import tag


@dataclass(frozen=True)
class Setting:
    """One setting of a job: its path, its declaration and its default.

    `choice` is the `type` of the section that has it, such as "infonce", where a recipe chooses among several.
    """

    path: str
    field: FieldInfo
    default: Any
    choice: str = ""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def section_path(self) -> str:
        """The path of the section that has the setting; empty for those of the job itself."""
        return self.path.rpartition(".")[0]

    @property
    def sections(self) -> list[type[BaseModel]]:
        """The classes of a section that stands here, several where `type` chooses; empty for a plain value."""
        return list(dict.fromkeys(models(self.field.annotation)))


def list_settings(config_class: type[BaseModel]) -> list[Setting]:
    """List every setting of a job in the order of declaration; a section comes before its own settings.

    A setting of a section in a list is `sources[].path`, and in a mapping `models.NAME.layers`. A class that was listed
    under another path is not listed again, so that a loss inside a loss does not repeat them all.
    """
    defaults = getattr(config_class, "computed_defaults", {})
    return list(_walk(config_class, "", None, "", defaults, set()))


def _walk(
    section: type[BaseModel],
    prefix: str,
    instance: Any,
    choice: str,
    defaults: dict[str, str],
    listed: set[type[BaseModel]],
) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        path = prefix + name
        default = getattr(instance, name) if isinstance(instance, section) else _declared_default(field)
        setting = Setting(path, field, defaults.get(path, default), choice)
        yield setting
        fresh = [model for model in setting.sections if model not in listed]
        listed.update(fresh)
        for model in fresh:
            chosen = tag(model) if len(setting.sections) > 1 else ""
            yield from _walk(model, f"{path}{_step(field.annotation)}", default, chosen, defaults, listed)


def _step(annotation: Any) -> str:
    """What leads from a setting to those of its section: a point, or the items of a list or mapping."""
    if get_origin(annotation) in (list, tuple):
        return "[]."
    if get_origin(annotation) is dict:
        return ".NAME."
    steps = {_step(part) for part in get_args(annotation)} - {"."}
    return steps.pop() if steps else "."


def _declared_default(field: FieldInfo) -> Any:
    return PydanticUndefined if field.is_required() else field.get_default(call_default_factory=True)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that the type of a setting mentions, those in unions and lists among them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


def nearest(name: str, paths: Iterable[str]) -> str | None:
    """The path that is spelt most like a name, else the shortest whose last part is; None where none is near.

    `loss.temprature` and `temprature` are both near `loss.temperature`.
    """
    candidates = sorted(set(paths) - {name})
    if close := difflib.get_close_matches(name, candidates, n=1, cutoff=0.75):
        return close[0]
    by_leaf: dict[str, list[str]] = {}
    for path in candidates:
        by_leaf.setdefault(path.rpartition(".")[2], []).append(path)
    leaf = difflib.get_close_matches(name.rpartition(".")[2], by_leaf, n=1, cutoff=0.75)
    return min(by_leaf[leaf[0]], key=lambda path: (path.count("."), path)) if leaf else None
