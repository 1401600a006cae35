"""Go back to the version before: `python -m scripts.rollback RELEASES [--to VERSION]`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/rollback.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("rollback")
