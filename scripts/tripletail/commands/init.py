"""Look at files and write a recipe for them: `tripletail init FILE... [--out RECIPE] [--run DIR] [--model MODEL]`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = """\
Look at files of yours - CSV, JSON, Excel, Parquet, dumps and exports of shops -
and write a recipe that trains on them, with a reason at every choice.
It runs as it is: `tripletail run --config RECIPE`.
"""


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        "tripletail init",
        usage="tripletail init FILE... [--out RECIPE] [--run DIR] [--model MODEL]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("files", nargs="+", metavar="FILE", help="files or folders with what you have")
    flags.add_argument("--out", default="recipe.yaml", metavar="RECIPE", help="what to write (default: recipe.yaml)")
    flags.add_argument("--run", metavar="DIR", help="where the run goes (default: runs/NAME of the first file)")
    flags.add_argument(
        "--model", default="gt:all-minilm-l6-v2", help="model to begin with (default: gt:all-minilm-l6-v2)"
    )
    flags.add_argument("--overwrite", action="store_true", help="replace a recipe that is there")
    return flags


def main(argv: Sequence[str]) -> None:
    """Look at every file, write the recipe, and say what was found and what comes next."""
    options = parser().parse_args(argv)
    from pipeline.core.config import exit_on_user_error
    from pipeline.core.errors import UserError

    from ..starter_recipe import StarterRecipe

    with exit_on_user_error("init"):
        out = Path(options.out)
        if out.exists() and not options.overwrite:
            raise UserError(f"{out}: is there already; give --out ANOTHER or --overwrite")
        run = options.run or f"runs/{Path(options.files[0]).name.partition('.')[0] or 'mine'}"
        starter = StarterRecipe.of_files(options.files, out.parent, run, options.model)
        for line in starter.findings():
            sys.stdout.write(line + "\n")
        out.write_text(starter.text(), encoding="utf-8")
        config = shlex.quote(str(out))
        sys.stdout.write(
            f"wrote {out}; look at it, then\n"
            f"  tripletail run --config {config} --dry-run    # checks everything in seconds\n"
            f"  tripletail run --config {config}\n"
        )
