"""Kill the embedding job at random points and compare: `python -m scripts.drills.embed [--runs 10] [--seed 0]`.

Each run kills an actor, the driver or a whole node (of a cluster of three on this machine) at a point that the seed
decides, lets the same command go on, and compares with an uninterrupted run: equal table, each id once, and no
committed shard made again, so that at most the one that an actor had begun is lost.
Writes {out}/drill_embed.json.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("worker", "driver", "node")
ACTORS = 2
WORDS = ("kettle", "lamp", "mug", "shoes", "scarf", "headphones", "bicycle", "hose", "tripod", "sofa", "oven", "tent")


class Drill:
    """One corpus, and the job that is run on it again and again."""

    def __init__(self, folder: Path, rows: int, layers: int) -> None:
        self.folder, self.rows, self.layers = folder, rows, layers
        rng = random.Random(7)
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 60))) for _ in range(rows)]
        self.input = folder / "input.parquet"
        pq.write_table(pa.table({"id": [f"d{row}" for row in range(rows)], "text": texts}), self.input)

    def start(self, out: Path, address: str | None = None) -> subprocess.Popen[bytes]:
        """Start the job in a process of its own, on the cluster at `address` or on its own."""
        settings = {
            "--input": self.input, "--out": out, "--rows_per_shard": 64, "--num_actors": ACTORS, "--threads": 1,
            "--encoder.model": "gt:all-minilm-l6-v2", "--encoder.layers": self.layers, "--encoder.backend": "torch",
            "--encoder.dtype": "float32", "--in_process_rows": 0,
        }  # fmt: skip
        words = [str(word) for item in settings.items() for word in item]
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        env |= {"HF_HUB_OFFLINE": "1"} | ({"RAY_ADDRESS": address} if address else {})
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "scripts.embed", *words],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=log,
            )

    @property
    def shards(self) -> int:
        """Shards of an uninterrupted run."""
        return -(-self.rows // 64)

    def output(self) -> str:
        """The last 2,000 characters that the jobs printed."""
        return (self.folder / "log.txt").read_text()[-2000:]


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A Ray cluster of a head and further nodes on this machine."""
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        ray_cluster.wait_for_nodes()
        yield ray_cluster, [ray_cluster.add_node(num_cpus=2) for _ in range(nodes - 1)]
    finally:
        ray_cluster.shutdown()


def committed(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every committed shard."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("vectors/*.parquet")}


def wait_for(drill: Drill, driver: subprocess.Popen[bytes], out: Path, shards: int) -> None:
    """Wait until so many shards are committed."""
    deadline = time.monotonic() + 180
    while len(committed(out)) < shards:
        if driver.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"drill: the job ended or stood still at {len(committed(out))} shards\n{drill.output()}")
        time.sleep(0.002)


def actors(driver: int) -> list[psutil.Process]:
    """Embedding actors below a driver."""
    processes = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if any("EmbedShard" in word for word in process.cmdline()):
                processes.append(process)
    return processes


def run_with_kill(drill: Drill, kind: str, rng: random.Random, out: Path) -> dict[str, Any]:
    """Run once with one kill; returns how many shards were committed at the kill and how many of those were redone."""
    at = rng.randint(1, drill.shards - 2 * ACTORS - 1)
    pause = rng.random() * 0.2
    if kind == "node":
        with cluster(3) as (ray_cluster, nodes):
            driver = drill.start(out, ray_cluster.address)
            wait_for(drill, driver, out, at)
            time.sleep(pause)
            before = committed(out)
            ray_cluster.remove_node(rng.choice(nodes), allow_graceful=False)
            code = driver.wait(300)
    else:
        driver = drill.start(out)
        wait_for(drill, driver, out, at)
        time.sleep(pause)
        before = committed(out)
        if kind == "driver":
            os.kill(driver.pid, signal.SIGKILL)
        else:
            victims = actors(driver.pid)
            if not victims:
                raise SystemExit("drill: found no actor to kill")
            rng.choice(victims).kill()
        code = driver.wait(300)
    if kind == "driver":
        before = _committed_at_rest(out)
        code = drill.start(out).wait(300)
    if code:
        raise SystemExit(f"drill: {kind}: the job ended with {code}\n{drill.output()}")
    after = committed(out)
    again = sum(after.get(name) != mark for name, mark in before.items())
    return {"kind": kind, "at": at, "committed": len(before), "redone": again}


def _committed_at_rest(out: Path) -> dict[str, tuple[int, int]]:
    """Wait until the actors of a killed driver write no more."""
    last = committed(out)
    while True:
        time.sleep(2)
        if (now := committed(out)) == last:
            return now
        last = now


def compare(out: Path, reference: Path) -> str | None:
    """Describe how the output of an interrupted run differs from the reference; None where it does not."""
    ours, expected = (
        pa.concat_tables([pq.read_table(path) for path in sorted(directory.glob("vectors/*.parquet"))])
        for directory in (out, reference)
    )
    ids = ours["id"].to_pylist()
    if len(ids) != len(set(ids)):
        return "an id is there twice"
    if ids != expected["id"].to_pylist():
        return "ids or their order differ"
    left, right = (table["vector"].combine_chunks().flatten().to_numpy() for table in (ours, expected))
    if not np.array_equal(left, right):
        return f"vectors differ by up to {np.abs(left - right).max():.1e}"
    return None if not list(out.glob("vectors/*.partial")) else "half a file is left"


def main() -> None:
    """Run the drill and write what was seen."""
    parser = argparse.ArgumentParser("python -m scripts.drills.embed", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--layers", type=int, default=1, help="of the model; more make the job slower")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--out", default="runs/bench", help="directory of drill_embed.json")
    options = parser.parse_args()
    rng, seen = random.Random(options.seed), []
    with tempfile.TemporaryDirectory(prefix="tt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        drill = Drill(Path(folder), options.rows, options.layers)
        reference = Path(folder) / "reference"
        if drill.start(reference).wait(300):
            raise SystemExit(f"drill: the uninterrupted run failed\n{drill.output()}")
        for number in range(options.runs):
            kind = options.kinds[number % len(options.kinds)]
            out = Path(folder) / f"run{number}"
            row = run_with_kill(drill, kind, rng, out)
            row["wrong"] = compare(out, reference)
            row["met"] = row["wrong"] is None and row["redone"] == 0
            seen.append(row)
            print(f"{number + 1:3} {kind:7} {row}", flush=True)
    target = Path(options.out) / "drill_embed.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")
    print(f"{sum(row['met'] for row in seen)} of {len(seen)} runs equal to the uninterrupted one; {target}")
    raise SystemExit(0 if all(row["met"] for row in seen) else 1)


if __name__ == "__main__":
    main()
