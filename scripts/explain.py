"""Show where a row of a training step came from: `python -m scripts.explain --run RUN --step N --row I`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/explain.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("explain")
