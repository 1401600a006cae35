"""Bring vectors into a database: `python -m scripts.publish --run RUN --store.type qdrant --store.path DIR`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/publish.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("publish")
