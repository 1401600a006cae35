"""Look at files and write a recipe for them: `python -m scripts.init FILE... [--out RECIPE] [--run DIR]`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/init.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("init")
