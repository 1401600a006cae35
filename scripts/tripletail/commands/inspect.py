"""Show what an artifact or a raw file holds: `tripletail inspect PATH [--rows 3] [--seed 0] [--html PAGE]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser("tripletail inspect", description="Show what an artifact holds, or a raw file.")
    flags.add_argument("path", help="a finished artifact: runs/NAME/data, negatives, ...; or a raw file or folder")
    flags.add_argument("--rows", type=int, default=3, help="random rows of each table (default: 3)")
    flags.add_argument("--seed", type=int, default=0, help="of the random rows (default: 0)")
    flags.add_argument("--html", metavar="PAGE", help="also write a page")
    return flags


def main(argv: Sequence[str]) -> None:
    """Survey an artifact; print it, and write the page where `--html` names one; of a raw file print a recipe too."""
    options = parser().parse_args(argv)
    from rich.console import Console

    from pipeline.core.config import exit_on_user_error
    from pipeline.core.errors import UserError
    from pipeline.inspection.page import render
    from pipeline.inspection.raw_file import is_raw, read_sample
    from pipeline.inspection.raw_terminal import show_raw
    from pipeline.inspection.survey import survey
    from pipeline.inspection.terminal import show

    with exit_on_user_error("inspect"):
        if is_raw(options.path):
            if options.html:
                raise UserError("--html draws a page of an artifact; a raw file is printed only")
            show_raw(read_sample(options.path), Console(), max(options.rows, 0))
            return
        content = survey(options.path, max(options.rows, 0), options.seed)
        show(content, Console())
        if options.html:
            Path(options.html).write_text(render(content), encoding="utf-8")
