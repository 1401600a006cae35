"""Compare finished runs: `tripletail compare RUN RUN ... [--baseline MODEL] [--metric NAME] [--html PAGE]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser("tripletail compare", description="Compare finished runs.")
    flags.add_argument("runs", nargs="+", metavar="RUN", help="directories of runs with a report")
    flags.add_argument("--baseline", help="model that the others are tested against; default: that of the first run")
    flags.add_argument("--metric", help="metric that decides; default: the first of the first run")
    flags.add_argument("--html", metavar="PAGE", help="also write a page")
    return flags


def main(argv: Sequence[str]) -> None:
    """Print the models of all runs, tests and settings that differ; write the page where `--html` names one."""
    options = parser().parse_args(argv)
    from pipeline.core.config import exit_on_user_error
    from pipeline.evaluation.run_comparison import compare_runs, print_comparison
    from pipeline.report.run_comparison import render

    with exit_on_user_error("compare"):
        comparison = compare_runs(options.runs, options.baseline, options.metric)
        print_comparison(comparison)
        if options.html:
            Path(options.html).write_text(render(comparison), encoding="utf-8")
