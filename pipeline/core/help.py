"""What `--help` and `--help-all` of a job print: the settings that people change on one screen, and all of them.

Which settings fit the screen is declared with them (`JobConfig.common_settings`).
"""

import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from pipeline.core.plugins import tag
from pipeline.core.settings import Setting, list_settings

WIDTH, COLUMN = 80, 28


def short_help(config_class: type[BaseModel], command: str, section: str = "") -> str:
    """Help on one screen: what a job does, the settings that people change with their defaults, where to read on.

    `section` is the section of a recipe that holds the job's settings; a job without one has a recipe of its own.
    """
    settings = {setting.path: setting for setting in list_settings(config_class)}
    common = [settings[path] for path in getattr(config_class, "common_settings", ())]
    always = [
        ("--config RECIPE", f"YAML or JSON file with {f'a section `{section}:`' if section else 'settings'}"),
        ("--dry-run", "check the inputs, print the resolved settings, start nothing"),
        ("--help-all", f"list all {len(settings)} settings"),
    ]
    parts = [
        f"usage: tripletail {command} [--config RECIPE] [--SETTING VALUE ...]",
        textwrap.fill(_summary(config_class), WIDTH),
        "\n".join(["settings that people change:", *_table(map(_row, common))]),
        "\n".join(_table(always)),
        textwrap.fill(f"{_notation(settings)} More in {getattr(config_class, 'documentation', '')}.", WIDTH),
    ]
    return "\n\n".join(parts) + "\n"


def full_help(config_class: type[BaseModel], command: str, width: int = WIDTH) -> str:
    """Help on everything: each setting with its type, description and default, section by section."""
    settings = list_settings(config_class)
    blocks: dict[str, list[Setting]] = {}
    for setting in _with_common(settings):
        blocks.setdefault(_title(setting), []).append(setting)
    notation = _notation(setting.path for setting in settings)
    parts = [
        f"usage: tripletail {command} [--config RECIPE] [--SETTING VALUE ...] [--dry-run]",
        textwrap.fill(f"{_summary(config_class)} {notation} `--no-overwrite` turns a switch off.", width),
        *("\n".join([*filter(None, [title]), *_table(map(_row, block), width)]) for title, block in blocks.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _notation(paths: Iterable[str]) -> str:
    """How a flag and a recipe write the same setting, shown on one of a section where the job has some."""
    nested = next((path for path in paths if path.count(".") == 1 and "[" not in path), "")
    section, _, name = nested.partition(".")
    return f"A flag `--{nested} X` is `{section}: {{{name}: X}}` in a recipe." if nested else "Flags win over a recipe."


def _with_common(settings: list[Setting]) -> Iterator[Setting]:
    """The settings; those that every type of a section has alike stand once, and `type` itself with its section."""
    choices: dict[str, set[str]] = {}
    alike: dict[tuple[str, str], set[str]] = {}
    for setting in settings:
        choices.setdefault(setting.section_path, set()).add(setting.choice)
        alike.setdefault((setting.path, _row(setting)[1]), set()).add(setting.choice)
    seen: set[tuple[str, str]] = set()
    for setting in settings:
        key = (setting.path, _row(setting)[1])
        if key in seen or (setting.choice and setting.name == "type"):
            continue
        if setting.choice and alike[key] == choices[setting.section_path]:
            seen.add(key)
            setting = replace(setting, choice="any")
        yield setting


def _title(setting: Setting) -> str:
    if not setting.section_path:
        return ""
    return f"{setting.section_path}{f' of type {setting.choice}' if setting.choice else ''}:"


def _summary(config_class: type[BaseModel]) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((config_class.__doc__ or "").split("\n\n")[0].split())


def _row(setting: Setting) -> tuple[str, str]:
    """What the two columns say: path and type, description and default."""
    types = [tag(section) for section in setting.sections]
    path, kind = setting.path, _type_text(setting.field.annotation)
    if len(types) > 1 and all(types):
        path, kind = f"{path}{'[]' if get_origin(setting.field.annotation) is list else ''}.type", _choices(types)
    if "[]" not in path and ".NAME" not in path:
        path, kind = f"--{path}", kind.replace("BOOL", "")  # a switch takes no value
    return f"{path} {kind}".rstrip(), " ".join(filter(None, (setting.field.description, default_text(setting))))


def _table(rows: Iterable[tuple[str, str]], width: int = WIDTH) -> Iterator[str]:
    """Rows of two columns; what is too long for the first has its text below it."""
    for flag, text in rows:
        lines = textwrap.wrap(text, width - COLUMN, break_long_words=False, break_on_hyphens=False)
        if len(flag) + 4 > COLUMN or not lines:
            yield from textwrap.wrap(flag.replace(",", ", "), width, initial_indent="  ", subsequent_indent="      ")
        else:
            yield f"  {flag:<{COLUMN - 2}}{lines.pop(0)}"
        yield from (f"{'':<{COLUMN}}{line}" for line in lines)


def _type_text(annotation: Any) -> str:
    """How help writes the type of a setting: `INT`, `{query,document}`, `LIST`, `SECTION`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "SECTION"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _choices(str(item.value) for item in annotation)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type_text(part) for part in parts if part is not NoneType))
    if origin is Literal:
        return _choices(map(str, parts))
    return str(getattr(origin or annotation, "__name__", annotation)).upper()


def _choices(names: Iterable[str]) -> str:
    return "{" + ",".join(names) + "}"


def default_text(setting: Setting) -> str:
    """The default in parentheses; empty where the description says what happens by default."""
    if "default" in (setting.field.description or ""):
        return ""
    if setting.default is PydanticUndefined:
        return "(required)"
    if isinstance(setting.default, BaseModel):
        return f"(default: {tag(type(setting.default))})" if tag(type(setting.default)) else ""
    if setting.default is None or setting.default == "":
        return "(default: none)"
    if isinstance(setting.default, str):
        return f"(default: {setting.default})"
    return f"(default: {json.dumps(to_jsonable_python(setting.default))})"
