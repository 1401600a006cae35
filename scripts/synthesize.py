"""Write rows with planted truth, for scale work: `python -m scripts.synthesize OUT --rows N`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/synthesize.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("synthesize")
