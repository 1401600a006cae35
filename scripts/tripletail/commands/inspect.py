"""Look at what a job left: `python -m scripts.inspect PATH [--rows 3] [--seed 0] [--html OUT]`."""

import argparse
from pathlib import Path

from rich.console import Console

from pipeline.core.config import exit_on_user_error
from pipeline.inspection.page import render
from pipeline.inspection.survey import survey
from pipeline.inspection.terminal import show


def main() -> None:
    """Survey an artifact; print it, and write the page where asked."""
    parser = argparse.ArgumentParser(prog="python -m scripts.inspect", description="Look at what a job left.")
    parser.add_argument("path", help="a finished artifact: runs/NAME/data, negatives, vectors, ...")
    parser.add_argument("--rows", type=int, default=3, help="random rows of each table")
    parser.add_argument("--seed", type=int, default=0, help="of the random rows")
    parser.add_argument("--html", help="also write a page")
    args = parser.parse_args()
    with exit_on_user_error("inspect"):
        found = survey(args.path, max(args.rows, 0), args.seed)
        show(found, Console())
        if args.html:
            Path(args.html).write_text(render(found), encoding="utf-8")


if __name__ == "__main__":
    main()
