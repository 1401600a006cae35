"""Typed job configurations: a YAML recipe, flags over it, and one clear line when something is wrong.

A recipe may hold one section a job (`build:`, `mine:`, ...) below keys that all jobs share (`run:`), so that one
file describes a whole run and every job can be started with it. The `config.json` that a job leaves is a recipe too.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from pipeline.core.errors import UserError
from pipeline.core.progress import say

JOBS = ("build", "mine", "train", "embed", "evaluate")
PLACES = frozenset({"run", "out", "overwrite", "card"})  # say where, or who: they do not make a result another one


class Config(BaseModel):
    """A frozen section of a recipe; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _fill_default_type(cls, data: Any) -> Any:
        """Let `loss: {temperature: 0.02}` mean the default loss: fill in the default's `type`."""
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        for name, field in cls.model_fields.items():
            given, default = filled.get(name), field.get_default(call_default_factory=True)
            if isinstance(given, dict) and "type" not in given and hasattr(default, "type"):
                filled[name] = {"type": default.type, **given}
        return filled


class JobConfig(Config):
    """What every job has in common."""

    run: str = Field("runs/default", description="directory that holds every artifact of this run")
    overwrite: bool = Field(False, description="replace a finished artifact made with other inputs or settings")

    def digested(self) -> dict[str, Any]:
        """Every setting that decides the result, for comparison with an earlier run's."""
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in PLACES}

    def recipes(self) -> list[str]:
        """Other recipes whose builds this job looks into, to be made before it."""
        return []


def unsized(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that say how much is computed at a time: what runs out of memory may go on with less.

    They stay inside lists: no list of a job holds models.
    """
    kept = {key: value for key, value in settings.items() if key != "token_budget"}
    return {key: unsized(value) if isinstance(value, dict) else value for key, value in kept.items()}


C = TypeVar("C", bound=JobConfig)


def load_recipe(path: str) -> dict[str, Any]:
    """Read a whole YAML or JSON recipe."""
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"recipe {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"recipe {path}: wanted a mapping of settings, found {type(recipe).__name__}")
    return recipe


def sections(recipe: dict[str, Any]) -> list[str]:
    """List the jobs that a recipe has a section for, in order; none where it holds the settings of one job.

    Beside other sections a bare `evaluate:` is one too, with nothing but defaults.
    """
    if not any(isinstance(recipe.get(job), dict) for job in JOBS):
        return []
    return [job for job in JOBS if job in recipe and isinstance(recipe[job], dict | None)]


def read_recipe(path: str, job: str) -> dict[str, Any]:
    """Read the settings of one job from a recipe."""
    recipe = load_recipe(path)
    held = sections(recipe)
    if not held:
        return recipe
    if job not in held:
        raise UserError(f"recipe {path}: has no section '{job}:'; it has {', '.join(held)}")
    shared = {key: value for key, value in recipe.items() if key not in JOBS}
    return {**shared, **(recipe[job] or {})}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries: `over` wins; a section whose `type` changes starts afresh."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if (
            isinstance(value, dict)
            and isinstance(below, dict)
            and value.get("type", below.get("type")) == below.get("type")
        ):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def parse(config_class: type[C], job: str, argv: Sequence[str]) -> tuple[C, bool]:
    """Resolve defaults, recipe and flags, in rising order of precedence; the second value is `--dry-run`."""
    given = _flags(config_class, job, argv)
    recipe, dry_run = given.pop("config", None), given.pop("dry_run", False)
    settings = merge(read_recipe(recipe, job), given) if recipe else given
    return validate(config_class, settings), dry_run


def validate(config_class: type[C], settings: dict[str, Any]) -> C:
    """Validate settings, or raise one UserError line per bad field."""
    try:
        return config_class.model_validate(settings)
    except ValidationError as error:
        raise UserError("; ".join(_describe(config_class, item) for item in error.errors())) from error


def _describe(config_class: type[BaseModel], item: Any) -> str:
    name, holder = _place(config_class, item["loc"])
    if item["type"] == "extra_forbidden":
        choices = ", ".join(sorted(holder.model_fields)) if holder else ""
        return f"unknown setting '{name}'" + (f"; choose from {choices}" if choices else "")
    if item["type"] == "missing":
        return f"setting '{name}' is required"
    shown = repr(item["input"])
    return f"setting '{name}' is {shown if len(shown) < 80 else shown[:77] + '...'}: {item['msg']}"


def _place(config_class: type[BaseModel], loc: Sequence[int | str]) -> tuple[str, type[BaseModel] | None]:
    """Name the place of an error as a recipe does, and find the section that should hold it.

    pydantic says `loss.infonce.temperature` where the recipe says `loss.temperature`: the tag of a union is no key.
    """
    names: list[str] = []
    sections, holder = [config_class], None
    for part in loc:
        chosen = [one for one in sections if part in (_tag(one), one.__name__)]
        if len(sections) > 1 and chosen:
            sections, holder = chosen, chosen[0]
            continue
        names.append(str(part))
        if isinstance(part, str):
            holder = sections[0] if len(sections) == 1 else None
            sections = [new for one in sections if part in one.model_fields for new in _sections(one, part)]
    return ".".join(names) or config_class.__name__, holder


def _tag(section: type[BaseModel]) -> Any:
    return section.model_fields["type"].default if "type" in section.model_fields else None


def _sections(section: type[BaseModel], key: str) -> list[type[BaseModel]]:
    """List the models that the type of one setting mentions."""
    found, open_types = [], [section.model_fields[key].annotation]
    while open_types:
        current: Any = open_types.pop()
        if isinstance(current, type) and issubclass(current, BaseModel):
            found.append(current)
        open_types.extend(get_args(current))
    return found


def _flags(config_class: type[C], job: str, argv: Sequence[str]) -> dict[str, Any]:
    """Return only what was given on the command line, nested."""
    extra = {
        "__annotations__": {"config": str | None, "dry_run": bool},
        "config": Field(None, description="recipe: YAML or JSON"),
        "dry_run": Field(False, description="print the resolved settings and the plan, start nothing"),
        "model_config": SettingsConfigDict(extra="forbid", cli_prog_name=f"python -m scripts.{job}"),
        "__doc__": config_class.__doc__,
        "__module__": config_class.__module__,
    }
    settings_class = type(config_class.__name__, (config_class, BaseSettings), extra)
    try:
        source: Any = CliSettingsSource(
            settings_class,
            cli_parse_args=[_underscored(word) for word in argv],
            cli_exit_on_error=False,
            cli_hide_none_type=True,
            cli_implicit_flags=True,
        )
        return dict(source())
    except (SettingsError, argparse.ArgumentError) as error:
        raise UserError(str(error).replace("error parsing CLI: ", "") + "; --help lists the flags") from error


def _underscored(word: str) -> str:
    """Accept `--dry-run` for `--dry_run`: dashes in the name of a flag, not in its value."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return "--" + name.replace("-", "_").replace("no_", "no-", 1 if name.startswith("no-") else 0) + equals + value


def main(config_class: type[C], job: str, run: Callable[[C], object], argv: Sequence[str] | None = None) -> None:
    """Parse, run and exit: 0 done, 2 a user's error in one line, 130 interrupted; defects keep their traceback."""
    with answering(job):
        config, dry_run = parse(config_class, job, sys.argv[1:] if argv is None else argv)
        if dry_run:
            sys.stdout.write(json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
            return
        run(config)


@contextmanager
def answering(job: str) -> Iterator[None]:
    """Answer a user's error with one line and exit code 2, an interruption with 130; let defects pass."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"{job}: interrupted; nothing unfinished is taken for whole, the same command goes on")
        _leave(130)
    except Exception as error:
        cause = user_cause(error)
        if cause is None:
            raise
        say(f"{job}: error: {cause}")
        _leave(2)


def _leave(code: int) -> None:
    sys.stderr.flush()
    raise SystemExit(code)


def user_cause(error: BaseException | None) -> str | None:
    """Find what the user can fix below wrappers such as Ray's task errors: a UserError or an operating-system error."""
    seen: set[int] = set()
    stack = [error]
    while stack:
        current = stack.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        wrapped = getattr(current, "cause", None)
        if isinstance(wrapped, BaseException):
            stack.append(wrapped)
        elif isinstance(current, UserError):
            return " ".join(str(current).split())
        elif isinstance(current, OSError) and current.errno and current.strerror:
            name = f"{current.filename}: " if current.filename else ""
            return f"{name}{current.strerror}"
        failures = getattr(current, "worker_failures", None)
        stack.append(getattr(current, "controller_failure", None))
        stack.extend([current.__cause__, current.__context__, *(failures or {}).values()])
    return None
