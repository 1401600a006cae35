"""Write graphs of a model for other runtimes, or upload it: `python -m scripts.export --model DIR --to onnx`."""

import sys
from pathlib import Path

if not __package__:  # started as `python scripts/export.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("export")
