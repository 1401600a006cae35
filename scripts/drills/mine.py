"""Kill the mining job while it searches and compare: `python -m scripts.drills.mine [--runs 3] [--seed 0]`.

Rows of the generator are built once and mined once without a kill. Then each run is killed with SIGKILL after a part of
the shards that the seed decides, the same command goes on, and tables and files are compared: equal rows, and no shard
that was committed before the kill is made again. Prints one line a run and ends with 1 where one differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from pipeline.core.progress import say
from pipeline.storage.artifact import Artifact

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("candidates", "triplets", "tuples")


class Drill:
    """One corpus, and the job that is run on it again and again."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.recipe, self.actors = folder, folder / "recipe.yaml", options.actors
        command = [sys.executable, "-m", "scripts.synthesize", str(folder / "planted"), "--rows", str(options.rows)]
        subprocess.run([*command, "--workers", "1", "--format", "jsonl"], cwd=ROOT, check=True)
        source = {"type": "jsonl", "kind": "qa", "path": str(folder / "planted" / "rows" / "*.jsonl")}
        mining = {
            "encoder": {"layers": 1}, "rows_per_shard": 64, "block_rows": 64, "num_actors": options.actors,
            "in_process_rows": 0, "cache": str(folder / "vectors"), "lexical": {},
            "rule": {"max_lexical_percentage": 0.95},
        }  # fmt: skip
        settings = {"run": str(folder), "build": {"sources": [source], "in_process_bytes": 0}, "mine": mining}
        self.recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self.start("build").wait()

    def start(self, job: str, *more: str) -> subprocess.Popen[bytes]:
        """Start a job in a session of its own."""
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"scripts.{job}", "--config", str(self.recipe), *more],
                cwd=ROOT,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def mine_to_the_end(self, out: Path) -> Artifact:
        """Run the job to its end and return its artifact."""
        if self.start("mine", "--out", str(out)).wait():
            raise SystemExit((self.folder / "log.txt").read_text()[-3000:])
        return Artifact.open(str(out), "mine")

    def mine_and_kill(self, out: Path, after: int) -> dict[str, int]:
        """Mine until `after` shards are committed, then kill; return the files that were there, with their times."""
        process = self.start("mine", "--out", str(out))
        while process.poll() is None and len(times(out)) < after:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(3)  # its actors end when they miss it
        return times(out)


def times(out: Path) -> dict[str, int]:
    """When each committed shard was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "triplets").glob("*.parquet")}


def main() -> None:
    """Kill runs of the job, resume them and compare."""
    parser = argparse.ArgumentParser("python -m scripts.drills.mine", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, bad = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        drill = Drill(Path(folder), options)
        expected = drill.mine_to_the_end(Path(folder) / "reference")
        shards = len(times(Path(folder) / "reference"))
        for run in range(options.runs):
            out = Path(folder) / f"killed-{run}"
            before = drill.mine_and_kill(out, rng.randint(1, shards - 1))
            resumed = drill.mine_to_the_end(out)
            equal = all(expected.read(table).equals(resumed.read(table)) for table in TABLES)
            again = sum(times(out)[name] != when for name, when in before.items())
            summary = f"killed after {len(before)} of {shards} shards, {again} of them made again"
            say(f"drill_mine: run {run}: {summary}, equal: {equal}")
            bad += not equal or again > 0
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
