"""Put an index into use, unless it is worse: `python -m scripts.release --config RECIPE`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/release.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("release")
