"""Typed job configurations: a YAML recipe, flags over it, and one clear line when something is wrong.

A recipe may hold one section a job (`build:`, `mine:`, ...) below keys that all jobs share (`run:`), so that one
file describes a whole run and every job can be started with it. The `config.json` that a job leaves is a recipe too.
"""

import argparse
import inspect
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from pipeline.core import plugins
from pipeline.core.errors import UserError
from pipeline.core.help import full_help
from pipeline.core.progress import say
from pipeline.core.settings import list_settings, models, nearest

JOBS = ("build", "mine", "train_reranker", "train", "embed", "evaluate", "index", "release", "publish")
ALSO_SETTINGS = ("index",)  # jobs whose name is a setting too, of `index` itself and of `mine`
SECRET = "secret"  # type of a validation error whose message must not repeat the value
# where results go, who makes them and in which process; no effect on rows
NOT_DIGESTED = frozenset({"run", "out", "overwrite", "card", "in_process_bytes", "in_process_rows", "gpus"})


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
            section, default = filled.get(name), field.get_default(call_default_factory=True)
            if isinstance(section, dict) and "type" not in section and hasattr(default, "type"):
                filled[name] = {"type": default.type, **section}
        return filled


class Plugin(Config):
    """A section that a recipe chooses by `type`: built-in classes declare a name, any other goes by its import path.

    A user's class derives from the room's subclass of this (a loss, a tracker, a source) and declares its settings
    alone; `pipeline.core.plugins.Registry` says where recipes may name it.
    """

    type: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the import path the `type` of a class that declares none, also where its base has a name."""
        super().__init_subclass__(**kwargs)
        declared = inspect.get_annotations(cls)
        if "type" not in declared:
            cls.type = plugins.import_path(cls)
            cls.__annotations__ = {**declared, "type": Literal[cls.type]}


class JobConfig(Config):
    """Settings that every job has.

    A job declares `common_settings`, the paths of those that `--help` shows; `computed_defaults`, what help shows as
    default of a setting that follows from others; and `documentation`, the file that says more.
    """

    common_settings: ClassVar[tuple[str, ...]] = ()
    computed_defaults: ClassVar[dict[str, str]] = {}
    documentation: ClassVar[str] = "README.md"

    run: str = Field("runs/default", description="directory that holds every artifact of this run")
    overwrite: bool = Field(False, description="replace a finished artifact made with other inputs or settings")

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that decide the result, for comparison with those of an earlier run."""
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in NOT_DIGESTED}

    def recipes(self) -> list[str]:
        """Return the recipes whose build artifacts this job reads, which must be built before it."""
        return []


class EncodingJobConfig(JobConfig):
    """Settings of jobs that encode texts: on how much of a cluster they do it."""

    num_actors: int | None = Field(
        None, ge=1, description="encoding actors; default: one a GPU, else one for each four CPUs"
    )
    gpus: int | None = Field(
        None, ge=0, description="GPUs to ask the autoscaler for, and to wait for; default: those that are up, if any"
    )
    in_process_rows: int = Field(
        5_000, ge=0, description="at most so many texts are worked on in this process, without Ray; 0: always by Ray"
    )

    @property
    def wants_cluster(self) -> bool:
        """Whether the settings ask for a session whatever the size of the input."""
        return (self.num_actors or 1) > 1 or bool(self.gpus)


def without_batch_sizes(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without `token_budget`: a job that ran out of memory may be resumed with smaller batches.

    Lists are left as they are: no list of a job's settings holds encoder settings.
    """
    return {
        key: without_batch_sizes(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key != "token_budget"
    }


C = TypeVar("C", bound=JobConfig)
S = TypeVar("S", bound=BaseModel)
Recipe = str | Mapping[str, Any]  # a file, or settings


def load_recipe(recipe: Recipe) -> dict[str, Any]:
    """Read a whole recipe from a YAML or JSON file, or take one that is settings already.

    In a file `${recipe_dir}` stands for the folder that holds it, so that a recipe can name files beside itself.
    """
    if not isinstance(recipe, str):
        return dict(recipe)
    name = recipe_name(recipe)
    try:
        settings = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{name}: expected a mapping of settings, got {type(settings).__name__}")
    return {key: _fill_in(value, str(Path(recipe).resolve().parent)) for key, value in settings.items()}


def _fill_in(value: Any, recipe_dir: str) -> Any:
    if isinstance(value, dict):
        return {key: _fill_in(item, recipe_dir) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_in(item, recipe_dir) for item in value]
    return value.replace("${recipe_dir}", recipe_dir) if isinstance(value, str) else value


def recipe_name(recipe: Recipe) -> str:
    """What messages call a recipe."""
    return f"recipe {recipe}" if isinstance(recipe, str) else "recipe"


def sections(recipe: dict[str, Any]) -> list[str]:
    """List the jobs that a recipe has a section for, in order; empty where the recipe holds the settings of one job.

    Next to other sections an empty `evaluate:` counts too: a section with nothing but defaults. `index:` alone is the
    setting of the job of that name.
    """
    if not any(isinstance(recipe.get(job), dict) for job in JOBS if job not in ALSO_SETTINGS):
        return []
    return [job for job in JOBS if job in recipe and isinstance(recipe[job], dict | None)]


def read_recipe(recipe: Recipe, job: str) -> dict[str, Any]:
    """Return the settings of one job from a recipe."""
    settings = load_recipe(recipe)
    jobs = sections(settings)
    if not jobs:
        return settings
    if job not in jobs:
        raise UserError(f"{recipe_name(recipe)}: has no section '{job}:'; it has {', '.join(jobs)}")
    shared = {key: value for key, value in settings.items() if key not in JOBS}
    return {**shared, **(settings[job] or {})}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge nested settings: `over` wins, and a section whose `type` changes keeps nothing of `base`."""
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
    flags = _flags(config_class, argv)
    recipe, dry_run = flags.pop("config", None), flags.pop("dry_run", False)
    return validate(config_class, merge_settings(job, recipe, flags)), dry_run


def merge_settings(job: str, recipe: Recipe | None, over: dict[str, Any]) -> dict[str, Any]:
    """Settings of a job from a recipe, with others over them; modules beside a recipe file may be named in it."""
    if isinstance(recipe, str):
        plugins.look_in(str(Path(recipe).parent))
    return merge(read_recipe(recipe, job), over) if recipe else over


def validate(config_class: type[S], settings: dict[str, Any]) -> S:
    """Validate settings, or raise one UserError line per bad field."""
    try:
        return config_class.model_validate(settings)
    except ValidationError as error:
        raise UserError("; ".join(_describe(config_class, item) for item in error.errors())) from error


def _describe(config_class: type[BaseModel], item: Any) -> str:
    name, holder = _locate(config_class, item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown setting '{name}'{_hint(config_class, name, holder)}"
    if item["type"] == "missing":
        return f"setting '{name}' is required"
    if item["type"] == SECRET:
        return f"setting '{name}': {item['msg']}"
    value = repr(item["input"])
    return f"setting '{name}' is {value if len(value) < 80 else value[:77] + '...'}: {item['msg']}"


def _hint(config_class: type[BaseModel], name: str, holder: type[BaseModel] | None) -> str:
    """Say what a misspelt setting could mean: one of its section, one of the job, else all that the section has."""
    prefix, _, leaf = name.rpartition(".")
    if holder and (close := nearest(leaf, holder.model_fields)):
        return f"; did you mean '{prefix + '.' if prefix else ''}{close}'?"
    others = [setting.path for setting in list_settings(config_class)]
    if close := nearest(name, [*others, *(JOBS if not prefix else ())]):
        return f"; did you mean {'the section ' if close in JOBS else ''}'{close}'?"
    return f"; choose from {', '.join(sorted(holder.model_fields))}" if holder else ""


def _locate(config_class: type[BaseModel], loc: Sequence[int | str]) -> tuple[str, type[BaseModel] | None]:
    """Return the dotted name of a setting as a recipe writes it, and the section that it belongs to.

    pydantic says `loss.infonce.temperature` where the recipe says `loss.temperature`: the tag of a union is not a key.
    """
    names: list[str] = []
    sections, holder = [config_class], None
    for part in loc:
        plugin = plugins.imported(part) if isinstance(part, str) else None
        chosen = [plugin] if plugin else [item for item in sections if part in (plugins.tag(item), item.__name__)]
        if plugin or (chosen and (len(sections) > 1 or part not in chosen[0].model_fields)):
            sections, holder = chosen, chosen[0]
            continue
        names.append(str(part))
        if isinstance(part, str):
            holder = sections[0] if len(sections) == 1 else None
            sections = [
                model
                for section in sections
                if part in section.model_fields
                for model in models(section.model_fields[part].annotation)
            ]
    return ".".join(names) or config_class.__name__, holder


def _flags(config_class: type[C], argv: Sequence[str]) -> dict[str, Any]:
    """Parse the command line into nested settings; only what was given is in it."""
    extra = {
        "__annotations__": {"config": str | None, "dry_run": bool},
        "config": Field(None, description="recipe: YAML or JSON"),
        "dry_run": Field(False, description="print the resolved settings and the plan, start nothing"),
        "model_config": SettingsConfigDict(extra="forbid"),
        "__doc__": config_class.__doc__,
        "__module__": config_class.__module__,
    }
    settings_class: Any = type(config_class.__name__, (config_class, BaseSettings), extra)
    for field in settings_class.model_fields.values():
        if any(isinstance(item, plugins.Registry) for item in field.metadata):
            field.discriminator = "type"  # for the help of `--loss.type`; the schema is made already
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
        raise UserError(_explain_flag(config_class, str(error).replace("error parsing CLI: ", ""))) from error


def _explain_flag(config_class: type[BaseModel], message: str) -> str:
    """The message of a parser, with the setting that a flag it does not know could mean."""
    _, unrecognized, words = message.partition("unrecognized arguments: ")
    unknown = [word[2:].partition("=")[0] for word in words.split() if word.startswith("--")]
    if not unrecognized or not unknown:
        return f"{message}; --help lists the flags"
    close = nearest(unknown[0], [setting.path for setting in list_settings(config_class)])
    return f"unknown setting '--{unknown[0]}'" + (f"; did you mean '--{close}'?" if close else "; see --help-all")


def _underscored(word: str) -> str:
    """Accept `--dry-run` for `--dry_run`: dashes in the name of a flag, not in its value."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return "--" + name.replace("-", "_").replace("no_", "no-", 1 if name.startswith("no-") else 0) + equals + value


def main(
    config_class: type[C],
    command: str,
    run: Callable[[C], object],
    argv: Sequence[str] | None = None,
    *,
    section: str | None = None,
    check: Callable[[C], str] | None = None,
) -> None:
    """Parse, run and exit: 0 done, 2 a user's error in one line, 130 interrupted; defects keep their traceback.

    `section` is the section of a recipe that the settings are read from, by default the one of the command's name.
    `check` compares the settings with what is there and says what would be done; `--dry-run` asks it.
    """
    section, words = section or command, sys.argv[1:] if argv is None else argv
    if "--help-all" in words:
        sys.stdout.write(full_help(config_class, command, min(shutil.get_terminal_size().columns, 120)))
        return
    with exit_on_user_error(command):
        config, dry_run = parse(config_class, section, words)
        if dry_run:
            sys.stdout.write(json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
            if check:
                say(f"{command}: {check(config)}")
            return
        run(config)


@contextmanager
def exit_on_user_error(job: str) -> Iterator[None]:
    """Exit with code 2 and one line for a user's error, with 130 after Ctrl-C; other exceptions pass through."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"{job}: interrupted; the same command resumes where it stopped")
        _exit(130)
    except Exception as error:
        cause = user_cause(error)
        if cause is None:
            raise
        say(f"{job}: error: {cause}")
        _exit(2)


def _exit(code: int) -> None:
    sys.stderr.flush()
    raise SystemExit(code)


def user_cause(error: BaseException | None) -> str | None:
    """Find the message of the UserError or operating-system error inside wrappers such as Ray's task errors, if any."""
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
