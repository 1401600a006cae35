"""The command `tripletail` where its script is not on PATH: `python -m tripletail COMMAND [FLAGS]`."""

from .cli import main

if __name__ == "__main__":
    main()
