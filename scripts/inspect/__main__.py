"""Show what an artifact holds: `python -m scripts.inspect PATH`, by the name that the command has elsewhere.

A file `scripts/inspect.py` would stand in for the standard library's module in `python scripts/train.py`; a folder
without `__init__.py` does not.
"""

from scripts.tripletail.cli import run_command

if __name__ == "__main__":
    run_command("inspect")
