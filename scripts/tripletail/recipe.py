"""Run the jobs of one recipe in order, in one process with one Ray session: build, mine, train, embed, evaluate.

Only the sections that the recipe has are run, and a job whose artifact is finished returns at once, so the same
command goes on after an interruption. Every section is checked before the first job starts. Where a job names another
recipe (`evaluate.guards`, `train.replay`), that recipe's build comes first.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.core.config import JOBS, JobConfig, exit_on_user_error, load_recipe, parse, sections
from pipeline.core.errors import UserError
from pipeline.core.progress import say

JOB_MODULES = {
    "build": ("pipeline.building.job", "BuildConfig"),
    "mine": ("pipeline.mining.job", "MineConfig"),
    "train": ("training.run.job", "TrainConfig"),
    "embed": ("pipeline.embedding.job", "EmbedConfig"),
    "evaluate": ("pipeline.evaluation.job", "EvaluateConfig"),
}


@dataclass(frozen=True)
class Step:
    """One job with its resolved settings."""

    job: str
    config: JobConfig
    run: Callable[[Any], object]


def flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.run", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="RECIPE", help="recipe with a section a job: YAML or JSON")
    parser.add_argument("--from", dest="first", choices=JOBS, metavar="JOB", help=f"first job: {', '.join(JOBS)}")
    parser.add_argument("--until", dest="last", choices=JOBS, metavar="JOB", help="last job")
    parser.add_argument("--run", metavar="DIR", help="directory that holds every artifact; over the recipe's `run:`")
    parser.add_argument("--root", metavar="DIR", help="where relative paths of the build's sources start")
    parser.add_argument("--overwrite", action="store_true", help="replace artifacts made with other settings or inputs")
    parser.add_argument("--strict", action="store_true", help="refuse to go on when training rows leak into evaluation")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe, start nothing")
    return parser.parse_args(argv)


def choose(recipe: str, first: str | None, last: str | None) -> list[str]:
    """List the jobs of a recipe from `first` to `last`, in the order of the data."""
    held = sections(load_recipe(recipe))
    for name, flag in ((first, "--from"), (last, "--until")):
        if name and name not in held:
            raise UserError(f"recipe {recipe}: has no section '{name}:' for {flag}; it has {', '.join(held) or 'none'}")
    chosen = [job for job in held if JOBS.index(first or JOBS[0]) <= JOBS.index(job) <= JOBS.index(last or JOBS[-1])]
    if not chosen:
        raise UserError(f"recipe {recipe}: no job to run; a section is one of {', '.join(JOBS)}, --from before --until")
    return chosen


def resolve(job: str, options: argparse.Namespace) -> Step:
    """Load the module of one job and resolve its settings."""
    module_name, class_name = JOB_MODULES[job]
    module = import_module(module_name)
    argv = ["--config", options.config]
    argv += ["--run", options.run] if options.run else []
    argv += ["--root", options.root] if options.root and job == "build" else []
    argv += ["--overwrite"] if options.overwrite else []
    argv += ["--strict"] if options.strict and job == "build" else []
    config, _ = parse(getattr(module, class_name), job, argv)
    return Step(job, config, module.run)


def beside(steps: Sequence[Step], options: argparse.Namespace) -> list[Step]:
    """Builds of other recipes that the jobs look into (guards, replayed corpora), each in its own recipe's place."""
    recipes = dict.fromkeys(recipe for step in steps for recipe in step.config.recipes())
    found = []
    for recipe in recipes:
        given = argparse.Namespace(config=recipe, run=None, root=options.root, overwrite=False, strict=False)
        step = resolve("build", given)
        found.append(Step(f"build of {recipe}", step.config, step.run))
    return found


def execute(steps: Sequence[Step]) -> None:
    """Run the jobs one after the other, each announced and timed."""
    begun = time.monotonic()
    for number, step in enumerate(steps, 1):
        label, start = f"[{number}/{len(steps)}] {step.job}", time.monotonic()
        say(label)
        with exit_on_user_error(step.job):
            step.run(step.config)
        say(f"{label}: {time.monotonic() - start:.1f} s")
    report = Path(steps[-1].config.run) / "report" / "report.html"
    place = f"; the report is {report.resolve()}" if report.exists() else f"; everything is in {steps[-1].config.run}"
    say(f"{len(steps)} {'jobs' if len(steps) > 1 else 'job'} in {time.monotonic() - begun:.1f} s{place}")


def main(argv: Sequence[str] | None = None) -> None:
    """Check every section, then run them."""
    options = flags(argv)
    with exit_on_user_error("run"):
        jobs = choose(options.config, options.first, options.last)
    steps = []
    for job in jobs:
        with exit_on_user_error(job):
            steps.append(resolve(job, options))
    with exit_on_user_error("build"):
        first = beside(steps, options)
    if options.dry_run:
        sys.stdout.write(json.dumps({step.job: step.config.model_dump(mode="json") for step in steps}, indent=2) + "\n")
    else:
        execute([*first, *steps])


if __name__ == "__main__":
    main()
