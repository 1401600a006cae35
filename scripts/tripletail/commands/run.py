"""Run the jobs of a recipe in order: `tripletail run --config RECIPE [--from JOB] [--until JOB] [flags]`."""

import argparse
import json
import sys
from collections.abc import Sequence

from pipeline.core.config import JOBS, exit_on_user_error
from pipeline.core.progress import say

from .. import recipe

DESCRIPTION = """\
Run the jobs of a recipe in order: build, mine, train, embed, evaluate. Only the
sections that the recipe has are run; a job whose artifact is finished returns
at once, so the same command resumes after an interruption.
"""


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        "tripletail run",
        usage="tripletail run --config RECIPE [FLAGS]",
        description=DESCRIPTION,
        epilog="Settings of a job are in its section of the recipe: `tripletail JOB --help`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument(
        "--config",
        required=True,
        metavar="RECIPE",
        help=f"YAML or JSON file, or a recipe that is installed: {', '.join(installed_recipes())}",
    )
    flags.add_argument(
        "--from", dest="first", choices=JOBS, metavar="JOB", help="first job (default: the first there is)"
    )
    flags.add_argument(
        "--until", dest="last", choices=JOBS, metavar="JOB", help="last job (default: the last there is)"
    )
    flags.add_argument(
        "--run", metavar="DIR", help="directory that holds every artifact (default: `run:` of the recipe)"
    )
    flags.add_argument(
        "--root",
        metavar="DIR",
        help="where relative paths of the build's sources start (default: `root:` of the recipe)",
    )
    flags.add_argument("--overwrite", action="store_true", help="replace artifacts made with other settings or inputs")
    flags.add_argument("--strict", action="store_true", help="refuse to go on when training rows leak into evaluation")
    flags.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    flags.add_argument("--print-config", action="store_true", help="print the resolved recipe, start nothing")
    return flags


def installed_recipes() -> list[str]:
    """Names of the recipes that `--config` takes without a path."""
    return sorted(path.stem for path in recipe.RECIPES.glob("*.yaml"))


def main(argv: Sequence[str]) -> None:
    """Check every section against what is there, say the plan, then run it."""
    flags = vars(parser().parse_args(argv))
    path = recipe.find_recipe(flags.pop("config"))
    dry_run, print_config = flags.pop("dry_run"), flags.pop("print_config")
    say(f"run: checks {path}")
    steps = recipe.plan(path, recipe.Options(**flags), exit_on_user_error)
    if print_config:
        resolved = {step.job: step.config.model_dump(mode="json") for step in steps if step.label == step.job}
        sys.stdout.write(json.dumps(resolved, indent=2) + "\n")
        return
    plan = recipe.describe(steps, recipe.preflight(steps, exit_on_user_error))
    if dry_run:
        plan.append("checked: settings, files, columns, models, splits and disk; without --dry-run it starts")
        sys.stdout.write("\n".join(plan) + "\n")
        return
    for line in plan:
        say(line)
    recipe.execute(steps, exit_on_user_error)
