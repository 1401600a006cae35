"""Go back to the version of a release before the one in use: `tripletail rollback RELEASES [--to VERSION]`."""

import argparse
import sys
from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        "tripletail rollback", description="Put the version of a release before the one in use into use again."
    )
    flags.add_argument("releases", help="folder of the versions, such as runs/shop/releases")
    flags.add_argument("--to", metavar="VERSION", help="another version than the one before")
    flags.add_argument("--list", action="store_true", help="list what happened and change nothing")
    return flags


def main(argv: Sequence[str]) -> None:
    """Turn the link `current`, and say to what; or list the history."""
    options = parser().parse_args(argv)
    from pipeline.core.config import exit_on_user_error
    from pipeline.releases.job import rollback
    from pipeline.releases.versions import Versions

    with exit_on_user_error("rollback"):
        if options.list:
            versions = Versions.open(options.releases)
            for event in versions.history():
                figures = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("event", "time"))
                mark = " (in use)" if event.get("version") == versions.current else ""
                sys.stdout.write(f"{event['time']}  {event['event']}: {figures}{mark}\n")
            return
        sys.stdout.write(f"rollback: {rollback(options.releases, options.to)} is in use again\n")
