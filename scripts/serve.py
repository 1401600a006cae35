"""Serve vectors and search over HTTP: `python -m scripts.serve --run RUN [--port 8000]`; Ctrl-C ends it."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/serve.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("serve")
