"""Make a static encoder out of a model: `python -m scripts.distil --model DIR --out DIR [--dim 256]`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/distil.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("distil")
