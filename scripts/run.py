"""Run the jobs of a recipe in order: `python -m scripts.run --config RECIPE [--from JOB] [--until JOB]`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/run.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("run")
