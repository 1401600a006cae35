"""Write mined rows as others read them: `python -m scripts.export_negatives NEGATIVES OUT --format n-tuple`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/export_negatives.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("export-negatives")
