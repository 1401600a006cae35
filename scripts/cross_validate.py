"""Hold out every question once: `python -m scripts.cross_validate --config RECIPE [--folds 5]`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/cross_validate.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("cross-validate")
