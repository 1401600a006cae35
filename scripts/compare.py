"""Compare finished runs: `python -m scripts.compare RUN RUN ... [--html PAGE]`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/compare.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("compare")
