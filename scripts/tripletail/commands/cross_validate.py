"""Hold out every question once: `tripletail cross-validate --config RECIPE [--folds 5] [--run DIR] [--html PAGE]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        "tripletail cross-validate",
        description="Train and test a recipe on several folds, so that every question is held out once. "
        "For small sets, whose test split alone says little.",
    )
    flags.add_argument("--config", required=True, metavar="RECIPE", help="with sections build, train and evaluate")
    flags.add_argument("--folds", type=_folds, default=5, help="parts, each the test split of one run (default: 5)")
    flags.add_argument("--run", metavar="DIR", help="directory of the folds (default: `run:` of the recipe)")
    flags.add_argument("--html", metavar="PAGE", help="also write a page")
    return flags


def _folds(text: str) -> int:
    if not text.isdigit() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"'{text}': wanted a number from 2 on")
    return int(text)


def main(argv: Sequence[str]) -> None:
    """Run the folds, print the pooled figures, and write the page where `--html` names one."""
    options = parser().parse_args(argv)
    from pipeline.core.config import exit_on_user_error
    from pipeline.evaluation.run_comparison import print_comparison
    from pipeline.report.run_comparison import render

    from ..cross_validation import cross_validate
    from ..recipe import find_recipe

    comparison = cross_validate(find_recipe(options.config), options.folds, options.run, exit_on_user_error)
    print_comparison(comparison)
    if options.html:
        Path(options.html).write_text(render(comparison), encoding="utf-8")
