"""Compare models over the whole corpus and write a report: `python -m scripts.evaluate --config RECIPE`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/evaluate.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("evaluate")
