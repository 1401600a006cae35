"""Show where a row of a training step came from: `python -m scripts.explain --run RUN --step N --row I [--json]`."""

import argparse
import json
import sys

from pipeline.core.config import exit_on_user_error
from training.run.lineage import explain, told


def main() -> None:
    """Print texts, ids, sources, negatives with score and reason, and the versions that made them."""
    parser = argparse.ArgumentParser("python -m scripts.explain", description=__doc__)
    parser.add_argument("--run", required=True, help="directory of the run")
    parser.add_argument("--step", required=True, type=int, help="optimiser step, counted from 0")
    parser.add_argument("--row", type=int, default=0, help="row of the step's global batch, in order of slots")
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args()
    with exit_on_user_error("explain"):
        found = explain(args.run, args.step, args.row)
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n" if args.json else told(found))


if __name__ == "__main__":
    main()
