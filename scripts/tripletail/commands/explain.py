"""Show where a row of a training step came from: `tripletail explain --run RUN --step N --row I [--json]`."""

import argparse
import json
import sys
from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser("tripletail explain", description="Show where a row of a training step came from.")
    flags.add_argument("--run", required=True, metavar="DIR", help="directory of the run")
    flags.add_argument("--step", required=True, type=int, help="optimiser step, counted from 0")
    flags.add_argument("--row", type=int, default=0, help="row of the global batch, in order of slots (default: 0)")
    flags.add_argument("--json", action="store_true", help="as JSON")
    return flags


def main(argv: Sequence[str]) -> None:
    """Print texts, ids, sources, negatives with score and reason, and the versions that made them."""
    options = parser().parse_args(argv)
    from pipeline.core.config import exit_on_user_error
    from training.run.lineage import explain, format_lineage

    with exit_on_user_error("explain"):
        origin = explain(options.run, options.step, options.row)
        as_json = json.dumps(origin, indent=2, ensure_ascii=False) + "\n"
        sys.stdout.write(as_json if options.json else format_lineage(origin))
