"""Make training queries from documents: `python -m scripts.generate --config RECIPE [flags]`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/generate.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("generate")
