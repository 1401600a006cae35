"""Measure the training engine beside its peers: `python -m scripts.bench.train_step [--quick] [--only PART ...]`.

Parts: loss (tiled against dense), cache (cached against plain), peer (a step against Sentence Transformers' trainer,
two gloo ranks of one thread), ranks (two ranks against one), memory (4,096 rows of 128 tokens), decoder (steps and
vectors of two layers of Qwen3 against Sentence Transformers), tokenise (long texts). Every figure comes from processes
of its own, in turns. Writes {out}/engine.json: a list of {name, ours, peer, unit, ratio, goal, met}; parts that are not
measured keep their rows.
"""

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from scripts.bench.decoder import decoder, tokenise
from scripts.bench.harness import medians, update_rows

ROOT = Path(__file__).resolve().parents[2]
SETS = ("movies_msrd", "debian_packages", "covidqa", "medquad")
TILE = 1024
Row = dict[str, Any]


class Bench:
    """Starts measurements and collects the rows of the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick, self.device, self.precision = options.quick, options.device, options.precision
        self.data, self.threads, self.repeats = options.data, options.threads, 1 if options.quick else options.repeats
        self.layers: int | None = options.layers
        self.sets: list[str] = list(options.sets)
        self.steps: int = options.steps
        self.rows: list[Row] = []

    def add(self, name: str, ours: float, peer: float | None, unit: str, ratio: float | None, goal: str) -> None:
        """Add a row; the goal is on the ratio, or on our figure where there is no peer."""
        sign, limit = goal.split()
        figure = ours if ratio is None else ratio
        met = figure >= float(limit) if sign == ">=" else figure <= float(limit)
        row = {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "goal": goal, "met": met}
        self.rows.append(row)
        print(f"  {name}: {_line(row)}", flush=True)

    def measure(self, **job: Any) -> dict[str, float]:
        """Run one measurement, a process a rank; memory is the sum over ranks, time that of rank 0."""
        ranks = job.get("ranks", 1)
        job = {"device": self.device, "threads": self.threads, **job}
        environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1"}
        if ranks > 1:
            environment |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        command = [sys.executable, "-m", "scripts.bench.workers.train_step", json.dumps(job)]
        with tempfile.TemporaryDirectory() as folder:
            logs = [Path(folder) / f"rank{rank}" for rank in range(ranks)]
            started = []
            for rank, log in enumerate(logs):
                rank_variables = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
                with log.open("w") as output:
                    started.append(
                        subprocess.Popen(
                            command, cwd=ROOT, env=environment | rank_variables, stdout=output, stderr=subprocess.STDOUT
                        )
                    )
            _wait(started, logs)
            by_rank = [json.loads(log.read_text().strip().splitlines()[-1]) for log in logs]
        return by_rank[0] | {"peak": sum(figures["peak"] for figures in by_rank)}

    def step(self, **job: Any) -> dict[str, float]:
        """Measure steps of training."""
        settings = {
            "kind": "step", "side": "ours", "data": self.data, "length": 128, "layers": self.layers, "cache": None,
            "tile": None, "fill": False, "precision": self.precision, "ranks": 1,
            "steps": 5 if self.quick else self.steps,
        }  # fmt: skip
        return self.measure(**settings | job)

    def turns(self, *jobs: Callable[[], dict[str, float]]) -> list[dict[str, float]]:
        """Medians of jobs that are measured in turns."""
        return medians(self.repeats, jobs)


def loss(bench: Bench) -> None:
    """Tiled against dense InfoNCE: memory and time."""

    def measured(rows: int, tile: int | None) -> dict[str, float]:
        return bench.measure(kind="loss", rows=rows, tile=tile, repeats=bench.repeats)

    small = 4096 if bench.quick else 8192
    tiled, dense = bench.turns(partial(measured, small, TILE), partial(measured, small, None))
    ratio = tiled["seconds"] / dense["seconds"]
    bench.add(
        f"loss time, {small:,} rows, tiled against dense", tiled["seconds"], dense["seconds"], "s", ratio, "<= 1.5"
    )
    large = 8192 if bench.quick else 32768
    dense_peak, note = dense["peak"] * (large / small) ** 2, f" scaled from {small:,} rows"
    if bench.device == "cpu" and dense_peak < 0.8 * _available():
        dense_peak, note = measured(large, None)["peak"], ""
    tiled_peak = measured(large, TILE)["peak"]
    name = f"loss memory, {large:,} rows, tiled against dense{note}"
    bench.add(name, tiled_peak, dense_peak, "MiB", dense_peak / tiled_peak, ">= 50")
    huge = 16384 if bench.quick else 65536
    bench.add(f"loss memory, {huge:,} rows, tiled", measured(huge, TILE)["peak"], None, "MiB", None, "<= 1024")


def cache(bench: Bench) -> None:
    """Cached against plain steps at an equal batch."""
    rows = 32 if bench.quick else 128
    for name in ("covidqa",) if bench.quick else ("covidqa", "medquad"):
        plain = partial(bench.step, set=name, batch=rows)
        ours, peer = bench.turns(partial(plain, cache=2048), plain)
        label = f"{name}, {rows} rows, cached against plain"
        bench.add(f"step, {label}", ours["seconds"], peer["seconds"], "s", ours["seconds"] / peer["seconds"], "<= 1.4")
        bench.add(f"memory, {label}", ours["peak"], peer["peak"], "MiB", peer["peak"] / ours["peak"], ">= 1")


def memory(bench: Bench) -> None:
    """The peak of one process that trains on a batch of thousands of long texts."""
    rows = 256 if bench.quick else 4096
    figures = bench.step(set="medquad", batch=rows, cache=2048, tile=TILE, fill=True, steps=1)
    bench.add(f"memory, {rows:,} rows of 128 tokens, cached", figures["peak"], None, "MiB", None, "<= 3072")


def peer(bench: Bench) -> None:
    """A step against Sentence Transformers' trainer: its gathered loss and its cached one, two ranks of one thread."""
    ranks = 1 if bench.device == "cuda" else 2
    for name in SETS[:1] if bench.quick else bench.sets:
        goal = ">= 1.1" if name == "medquad" else ">= 1.5"
        for kind, rows, tokens in (("plain", 64, None), ("cached", 64 if bench.quick else 256, 4096)):
            step = partial(bench.step, set=name, batch=rows, cache=tokens, ranks=ranks, threads=1)
            ours, peer = bench.turns(step, partial(step, side="peer"))
            label = f"{name}, {rows} rows, {kind}, {ranks} rank(s), against sentence-transformers"
            speed = ours["pairs_per_s"], peer["pairs_per_s"]
            bench.add(f"training, {label}", *speed, "pairs/s", speed[0] / speed[1], goal)
            bench.add(f"memory, {label}", ours["peak"], peer["peak"], "MiB", peer["peak"] / ours["peak"], ">= 1")


def ranks(bench: Bench) -> None:
    """Two ranks against one with the same rows a rank, one thread each."""
    rows = 32 if bench.quick else 64
    for name in ("debian_packages",) if bench.quick else ("debian_packages", "covidqa"):
        alone = partial(bench.step, set=name, batch=rows, threads=1)
        single, double = bench.turns(alone, partial(alone, batch=2 * rows, ranks=2))
        speed = double["pairs_per_s"], single["pairs_per_s"]
        label = f"{name}, {rows} rows a rank, two ranks against one"
        bench.add(f"training, {label}", *speed, "pairs/s", speed[0] / speed[1] / 2, ">= 0.85")


PARTS = {
    "loss": loss,
    "cache": cache,
    "peer": peer,
    "ranks": ranks,
    "memory": memory,
    "decoder": decoder,
    "tokenise": tokenise,
}


def _available() -> float:
    """Memory in MiB that may be used without swapping."""
    return int(Path("/proc/meminfo").read_text(encoding="ascii").split("MemAvailable:")[1].split()[0]) / 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(started: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    """Wait for all ranks; the first that fails ends the others and is quoted."""
    try:
        while any(process.poll() is None for process in started):
            if any(process.poll() for process in started):
                break
            try:
                started[0].wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
            started[-1].wait(timeout=120)
        for process, log in zip(started, logs, strict=True):
            if process.poll():
                ending = describe_ending(process.returncode)
                raise SystemExit(f"bench_engine: {ending}: {process.args}\n{log.read_text()[-3000:]}")
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()


def describe_ending(code: int) -> str:
    """How a process ended, by its exit code: killed ones have no traceback."""
    if code != -signal.SIGKILL:
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return "ended by SIGKILL, most likely for want of memory"


def _line(row: Row) -> str:
    figures = f"{row['ours']:.4g} {row['unit']}" + ("" if row["peer"] is None else f" against {row['peer']:.4g}")
    ratio = "" if row["ratio"] is None else f", ratio {row['ratio']:.2f}"
    return f"{figures}{ratio}; goal {row['goal']}: {'met' if row['met'] else 'MISSED'}"


def flags() -> argparse.Namespace:
    """Read the command line."""
    near = os.environ.get("TRIPLETAIL_DATA") or str(ROOT.parent / "shared" / "data")
    parser = argparse.ArgumentParser("python -m scripts.bench.train_step", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, once each: minutes instead of an hour")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", default="runs/bench", help="directory of engine.json")
    parser.add_argument("--data", default=near, help="directory of the corpora")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16", help="of both sides")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each comparison; the median counts")
    parser.add_argument("--steps", type=int, default=12, help="steps of one measurement, two of them to warm up")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="corpora to compare with the peer on")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of one-process measurements")
    parser.add_argument("--layers", type=int, help="keep only the first layers of the model, for a smoke test")
    return parser.parse_args()


def main() -> None:
    """Measure the parts and write the report."""
    options = flags()
    bench = Bench(options)
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads, {options.precision}, {options.device}"
    )
    target = Path(options.out) / "engine.json"
    for part in options.only:
        print(part, flush=True)
        PARTS[part](bench)
        update_rows(target, bench.rows)
    print(f"{sum(row['met'] for row in bench.rows)} of {len(bench.rows)} goals met; {target}")


if __name__ == "__main__":
    main()
