"""Run all drills, one after the other: `python -m scripts.drills [--only build,train]`; the table comes last.

Exits with 1 where one of them does.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRILLS = ("mutate", "build", "mine", "embed", "train", "jobs")


def main() -> None:
    """Run the drills that were asked for."""
    parser = argparse.ArgumentParser("python -m scripts.drills", description=__doc__)
    parser.add_argument("--only", default=",".join(DRILLS), help=f"some of {', '.join(DRILLS)}, with commas")
    names = parser.parse_args().only.split(",")
    if unknown := [name for name in names if name not in DRILLS]:
        parser.error(f"no drill {', '.join(unknown)}; there are {', '.join(DRILLS)}")
    lines, failed = [], 0
    for name in names:
        print(f"== {name}", flush=True)
        begun = time.monotonic()
        code = subprocess.run([sys.executable, "-m", f"scripts.drills.{name}"], cwd=ROOT, check=False).returncode
        failed += code != 0
        lines.append(f"{name:8} {'ok' if code == 0 else f'FAILED ({code})':12} {time.monotonic() - begun:7.0f} s")
    print("\n".join(lines))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
