"""Show what an artifact holds: `python -m scripts.preview PATH [--rows 3] [--html PAGE]`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/preview.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("inspect")
