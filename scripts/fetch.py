"""Fetch a published corpus and prepare it for its recipe: `python -m scripts.fetch [NAME ...] [--root data]`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/fetch.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("fetch")
