"""Run the jobs of one recipe in order, in one process with one Ray session: build, mine, train, embed, evaluate.

Only the sections that the recipe has are run, and a job whose artifact is finished returns at once, so the same
command resumes after an interruption. Every section is checked before the first job starts. Where a job names another
recipe (`evaluate.guards`, `train.replay`), that recipe's build comes first.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import config
from pipeline.core.config import JobConfig
from pipeline.core.errors import UserError
from pipeline.core.progress import say

from .jobs import JOBS

HERE = Path(__file__).resolve().parent
RECIPES = next(folder for folder in (HERE / "recipes", HERE.parent / "recipes") if folder.is_dir())
Recipe = str | Mapping[str, Any]
Guard = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Options:
    """What the caller of a whole recipe says over it."""

    first: str | None = None
    last: str | None = None
    run: str | None = None
    root: str | None = None
    overwrite: bool = False
    strict: bool = False

    def settings(self, job: str) -> dict[str, Any]:
        """Settings of a job that the options stand for."""
        settings: dict[str, Any] = {"run": self.run} if self.run else {}
        settings |= {"overwrite": True} if self.overwrite else {}
        if job == "build":
            settings |= {"root": self.root} if self.root else {}
            settings |= {"strict": True} if self.strict else {}
        return settings


@dataclass(frozen=True)
class Step:
    """One job with its resolved settings; the label is what its progress goes by."""

    job: str
    config: JobConfig
    run: Callable[[Any], Any]
    label: str


def find_recipe(name: str) -> str:
    """The path of a recipe: the file of that name, else the recipe that is installed under it ("quickstart")."""
    installed = RECIPES / f"{name}.yaml"
    return str(installed) if not Path(name).exists() and Path(name).name == name and installed.exists() else name


def with_recipe_path(words: Sequence[str]) -> list[str]:
    """Words of a command line with the path of an installed recipe in place of its name after `--config`."""
    paths = list(words)
    for position, word in enumerate(words):
        if word.startswith("--config="):
            paths[position] = f"--config={find_recipe(word.removeprefix('--config='))}"
        elif position and words[position - 1] == "--config":
            paths[position] = find_recipe(word)
    return paths


def choose_jobs(recipe: Recipe, first: str | None, last: str | None) -> list[str]:
    """List the jobs of a recipe from `first` to `last`, in the order of the data."""
    jobs, name = config.sections(config.load_recipe(recipe)), config.recipe_name(recipe)
    for job, flag in ((first, "--from"), (last, "--until")):
        if job and job not in jobs:
            raise UserError(f"{name}: has no section '{job}:' for {flag}; it has {', '.join(jobs) or 'none'}")
    start, end = config.JOBS.index(first or config.JOBS[0]), config.JOBS.index(last or config.JOBS[-1])
    chosen = [job for job in jobs if start <= config.JOBS.index(job) <= end]
    if not chosen:
        raise UserError(f"{name}: no job to run; a section is one of {', '.join(config.JOBS)}, --from before --until")
    return chosen


def plan(recipe: Recipe, options: Options, guard: Guard) -> list[Step]:
    """Resolve the settings of the jobs to run, builds of other recipes first; `guard` surrounds what a job raises."""
    with guard("run"):
        jobs = choose_jobs(recipe, options.first, options.last)
    steps = []
    for job in jobs:
        with guard(job):
            steps.append(resolve(job, recipe, options.settings(job)))
    with guard("build"):
        return [*_referenced_builds(steps, options.root), *steps]


def resolve(job: str, recipe: Recipe | None, over: dict[str, Any], label: str = "") -> Step:
    """Resolve the settings of one job: a recipe, with others over it, and rows in memory written to files."""
    config_class, run = JOBS[job].load()
    settings = config.merge_settings(JOBS[job].section or job, recipe, over)
    if any(name in settings for name in ("sources", "input")):
        from .rows import with_files

        settings = with_files(settings)
    return Step(job, config.validate(config_class, settings), run, label or job)


def _referenced_builds(steps: Sequence[Step], root: str | None) -> list[Step]:
    """Builds of the recipes that the jobs refer to (guards, replayed corpora), each in its own recipe's run."""
    recipes = dict.fromkeys(recipe for step in steps for recipe in step.config.recipes())
    return [resolve("build", recipe, Options(root=root).settings("build"), f"build of {recipe}") for recipe in recipes]


def preflight(steps: Sequence[Step], guard: Guard) -> list[str]:
    """Check every step against the files, models, splits and disk that are there; a line for each step.

    Nothing is started. All that is wrong is said, a line each, before `guard` gets the last.
    """
    from .preflight.ahead import Ahead
    from .preflight.check import check_step

    ahead, lines = Ahead(), list[str]()
    problems: list[tuple[str, UserError]] = []
    for step in steps:
        try:
            lines.append(check_step(step.job, step.config, ahead))
        except UserError as error:
            problems.append((step.job, error))
            ahead.add(step.job, step.config)
    for job, problem in problems[:-1]:
        say(f"{job}: error: {problem}")
    if problems:
        job, problem = problems[-1]
        with guard(job):
            raise problem
    return lines


def describe(steps: Sequence[Step], lines: Sequence[str]) -> list[str]:
    """The plan of a run: where it goes, and for each step what it does and whether it was finished before."""
    from .preflight.ahead import is_finished, room

    runs = ", ".join(dict.fromkeys(step.config.run for step in steps))
    plan = [f"{len(steps)} {'jobs' if len(steps) > 1 else 'job'} into {runs}{room(steps[-1].config.run)}"]
    for number, (step, line) in enumerate(zip(steps, lines, strict=True), 1):
        done = " (finished; left alone where nothing has changed)" if is_finished(step.job, step.config) else ""
        plan.append(f"  [{number}/{len(steps)}] {step.label:<9} {line}{done}")
    return plan


def execute(steps: Sequence[Step], guard: Guard) -> list[Any]:
    """Run the jobs one after the other, each announced and timed, and return what they return."""
    from .preflight.run_path import check_shared
    from .summary import summary

    for run, job in {step.config.run: step.job for step in reversed(steps)}.items():
        with guard(job):
            check_shared(run)
    results, begun, labels = [], time.monotonic(), [step.label for step in steps]
    for number, step in enumerate(steps, 1):
        label, start = f"[{number}/{len(steps)}] {step.label}", time.monotonic()
        say(label + _stages(labels, number - 1))
        with guard(step.job):
            results.append(step.run(step.config))
        say(f"{label}: {time.monotonic() - start:.1f} s")
    for line in summary([(step.job, step.config) for step in steps], time.monotonic() - begun):
        say(line)
    return results


def _stages(labels: Sequence[str], current: int) -> str:
    """What is done and what comes, behind the name of a stage; nothing of a run of one job."""
    parts = {"done": labels[:current], "to come": labels[current + 1 :]}
    text = "; ".join(f"{name}: {', '.join(part)}" for name, part in parts.items() if part)
    return f"  ({text})" if text else ""
