"""Measure the data pipeline beside its peers: `python -m scripts.bench.build [--quick] [--only PART ...]`.

Parts: build (against `datasets` with select and flatten_indices, `datasets` that leaves rows out inside map, and
DuckDB, by number of rows), cpus (two CPUs against one), memory (of the largest build against the smallest), near
(near-duplicate clusters against datasketch's loop, and how much of the planted truth each finds). Every figure comes
from a process of its own, in turns; memory is the proportional set size of all its processes together. Rows come from
`scripts.synthesize` and are kept under --scratch. Writes {out}/pipeline.json: a list of {name, ours, peer, unit,
ratio, goal, met}. Peers: `.[bench]`.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from scripts.bench.harness import medians

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
SIZES = {True: [100_000, 200_000], False: [1_000_000, 5_000_000, 20_000_000]}
PEERS = ["datasets", "datasets_map", "duckdb"]
THRESHOLD = 0.8
POLL = 1.0  # seconds between looks at memory: a look costs milliseconds a process
Row = dict[str, Any]


class Bench:
    """Starts measurements and collects the rows of the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick, self.scratch, self.cpus = options.quick, Path(options.scratch), options.cpus
        self.repeats = 1 if options.quick else options.repeats
        self.sizes: list[int] = options.rows or SIZES[options.quick]
        self.peers: list[str] = options.peers
        self.rows: list[Row] = []
        self.peaks: dict[int, float] = {}

    def add(self, name: str, ours: float, peer: float | None, unit: str, ratio: float | None, goal: str) -> None:
        """Add a row; the goal is on the ratio, or on our figure where there is no peer; '' for none."""
        figure = ours if ratio is None else ratio
        sign, _, limit = goal.partition(" ")
        met = not goal or (figure >= float(limit) if sign == ">=" else figure <= float(limit))
        row = {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "goal": goal, "met": met}
        self.rows.append(row)
        against = "" if peer is None else f" against {peer:,.4g}"
        factor = "" if ratio is None else f", ratio {ratio:.2f}"
        goal_text = f"; goal {goal}: {'met' if met else 'MISSED'}" if goal else ""
        print(f"  {name}: {ours:,.4g} {unit}{against}{factor}{goal_text}", flush=True)

    def data(self, rows: int) -> str:
        """Folder of generated question-answer rows; made once."""
        folder = self.scratch / f"qa-{rows}"
        if not (folder / "plan.json").exists():
            command = [sys.executable, "-m", "scripts.synthesize", str(folder), "--rows", str(rows)]
            subprocess.run([*command, "--format", "jsonl"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        return str(folder)

    def measure(self, kind: str, **job: Any) -> dict[str, float]:
        """Run one measurement; adds `peak`, the most MiB of all its processes, and their CPU seconds."""
        job = {"kind": kind, "scratch": str(self.scratch), "cpus": self.cpus, **job}
        command = [sys.executable, "-m", "scripts.bench.workers.build", json.dumps(job)]
        if job["cpus"] < (os.cpu_count() or 1) and shutil.which("taskset"):
            command = ["taskset", "-c", f"0-{job['cpus'] - 1}", *command]
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as failed:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | QUIET, stdout=output, stderr=failed)
            peak, spent = 0.0, dict[int, float]()
            while process.poll() is None:
                used, times = usage(process.pid)
                peak, spent = max(peak, used), spent | times
                time.sleep(POLL)
            output.seek(0)
            failed.seek(0)
            if process.returncode:
                raise SystemExit(f"bench_pipeline: {' '.join(command)}\n{failed.read()[-3000:]}")
            figures = json.loads(output.read().strip().splitlines()[-1])
            return figures | {"peak": peak, "cpu": sum(spent.values())}

    def turns(self, *jobs: Callable[[], dict[str, float]], repeats: int | None = None) -> list[dict[str, float]]:
        """Medians of jobs that are measured in turns."""
        return medians(repeats or self.repeats, jobs)


def usage(root: int) -> tuple[float, dict[int, float]]:
    """Proportional set size in MiB of a process and all that it started, and the CPU seconds of each."""
    import psutil

    total, times = 0, {}
    try:
        family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0, {}
    for process in family:
        try:
            rolled = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
            total += int(rolled.split("Pss:")[1].split()[0])
            spent = process.cpu_times()
            times[process.pid] = spent.user + spent.system
        except (OSError, IndexError, psutil.NoSuchProcess):
            continue
    return total / 1024, times


def build(bench: Bench) -> None:
    """Parse, clean, drop duplicates, split and pair: ours, `datasets` in as many processes, two ways, and DuckDB."""
    for rows in bench.sizes:
        jobs = [partial(bench.measure, kind, data=bench.data(rows)) for kind in ("ours", *bench.peers)]
        ours, *peers = bench.turns(*jobs, repeats=1 if rows > 1_000_000 else None)
        bench.peaks[rows] = ours["peak"]
        for kind, peer in zip(bench.peers, peers, strict=True):
            if any(ours[name] != peer[name] for name in ("corpus", "queries", "pairs")):
                raise SystemExit(f"bench_pipeline: not the same work: {ours} and {kind} {peer}")
            speed, other = rows / ours["seconds"], rows / peer["seconds"]
            goal = ">= 3" if kind == "datasets" else ""
            bench.add(f"build, {rows:,} rows, against {kind}", speed, other, "rows/s", speed / other, goal)
            spent = rows / ours["cpu"], rows / peer["cpu"]
            label = f"build, {rows:,} rows, Ray's start included, against {kind}"
            bench.add(label, *spent, "rows/CPU-s", spent[0] / spent[1], "")
            bench.add(
                f"memory of a build, {rows:,} rows, against {kind}",
                ours["peak"],
                peer["peak"],
                "MiB",
                ours["peak"] / peer["peak"],
                "",
            )
        if not peers:
            bench.add(f"build, {rows:,} rows", rows / ours["seconds"], None, "rows/s", None, "")
        bench.add(f"start of Ray before a build of {rows:,} rows", ours["start"], None, "s", None, "")


def memory(bench: Bench) -> None:
    """Memory of the largest build against that of the smallest."""
    for rows in (bench.sizes[0], bench.sizes[-1]):
        if rows not in bench.peaks:
            bench.peaks[rows] = bench.measure("ours", data=bench.data(rows))["peak"]
    small, large = (bench.peaks[rows] for rows in (bench.sizes[0], bench.sizes[-1]))
    name = f"memory of a build, {bench.sizes[-1]:,} rows against {bench.sizes[0]:,}"
    bench.add(name, large, small, "MiB", large / small, "<= 1.3")
    bench.add(f"memory of a build, {bench.sizes[-1]:,} rows", large, None, "MiB", None, "<= 6144")


def cpus(bench: Bench) -> None:
    """Two CPUs against one, to which the one build and all its processes are bound."""
    rows = bench.sizes[0]
    double, single = bench.turns(
        *(partial(bench.measure, "ours", data=bench.data(rows), cpus=count) for count in (2, 1))
    )
    speed = rows / double["seconds"], rows / single["seconds"]
    bench.add(f"build, {rows:,} rows, two CPUs against one", *speed, "rows/s", speed[0] / speed[1], ">= 1.7")


def near(bench: Bench) -> None:
    """Near-duplicate clusters in one process, and what they find of the planted truth."""
    rows = 10_000 if bench.quick else 100_000
    folder = bench.scratch / f"near-{rows}"
    if not (folder / "plan.json").exists():
        command = [sys.executable, "-m", "scripts.synthesize", str(folder), "--rows", str(rows), "--shingle", "1"]
        subprocess.run(
            [*command, "--jaccard", "0.9", "--duplicates", "0"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL
        )
    job = {"data": str(folder), "rows": rows, "threshold": THRESHOLD}
    kinds = ("cluster_ours", "cluster_datasketch")
    ours, peer = bench.turns(*(partial(bench.measure, kind, **job) for kind in kinds), repeats=1)
    speed = rows / ours["seconds"], rows / peer["seconds"]
    label = f"near duplicates, {rows:,} texts"
    bench.add(f"{label}, against datasketch", *speed, "texts/s", speed[0] / speed[1], "")
    bench.add(f"{label}, memory against datasketch", ours["peak"], peer["peak"], "MiB", ours["peak"] / peer["peak"], "")
    for side, figures in (("ours", ours), ("datasketch", peer)):
        goals = (">= 0.95", "<= 0.01") if side == "ours" else ("", "")
        bench.add(
            f"{label}, found of {figures['planted']:,} planted, {side}", figures["recall"], None, "", None, goals[0]
        )
        bench.add(f"{label}, false among the found, {side}", figures["false"], None, "", None, goals[1])


PARTS = {"build": build, "memory": memory, "cpus": cpus, "near": near}


def flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.bench.build", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, once each: minutes instead of an hour")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", default="runs/bench", help="directory of pipeline.json")
    parser.add_argument("--scratch", default="runs/bench/scratch", help="where rows are generated and builds write")
    parser.add_argument("--rows", nargs="+", type=int, help="sizes of builds, the smallest first")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--cpus", type=int, default=2, help="CPUs of Ray, processes of datasets, threads of DuckDB")
    parser.add_argument(
        "--repeats", type=int, default=3, help="turns of builds up to a million rows; the median counts"
    )
    return parser.parse_args()


def main() -> None:
    """Measure the parts and write the report."""
    options = flags()
    bench = Bench(options)
    bench.scratch = bench.scratch.resolve()
    bench.scratch.mkdir(parents=True, exist_ok=True)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {options.cpus} used")
    for part in options.only:
        print(part, flush=True)
        PARTS[part](bench)
    target = Path(options.out) / "pipeline.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bench.rows, indent=2) + "\n", encoding="utf-8")
    print(f"{sum(row['met'] for row in bench.rows)} of {len(bench.rows)} goals met; {target}")


if __name__ == "__main__":
    main()
