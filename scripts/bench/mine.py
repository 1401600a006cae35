"""Measure mining beside Sentence Transformers' function: `python -m scripts.bench.mine [--quick] [--only PART ...]`.

Parts: small (10,000 anchors x 100,000 documents), large (50,000 x 500,000), capped (a corpus ten times the memory of
the process), sweep (20 rules over a million rows), truth (the generator's planted negatives, through the jobs).
Vectors of 384 numbers are given, every measurement is a process of its own, sides take turns. Writes {out}/mine.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WIDTH, SIDES = 384, ("ours", "peer", "faiss")
Row = dict[str, Any]


class Bench:
    """Starts measurements and collects the rows of the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rows = options, list[Row]()
        self.target = Path(options.out) / "mine.json"
        if self.target.exists() and not options.afresh:
            self.rows = json.loads(self.target.read_text(encoding="utf-8"))

    def add(self, name: str, ours: float, peer: float | None, unit: str, ratio: float | None, goal: str) -> None:
        """Add a row in place of an older one of its name; the goal is on the ratio, or on our figure without a peer."""
        sign, limit = goal.split()
        figure = ours if ratio is None else ratio
        met = figure >= float(limit) if sign == ">=" else figure <= float(limit)
        row = {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "goal": goal, "met": met}
        self.rows = [older for older in self.rows if older["name"] != name] + [row]
        against = "" if peer is None else f" against {peer:.4g}"
        factor = "" if ratio is None else f", ratio {ratio:.2f}"
        print(f"  {name}: {ours:.4g} {unit}{against}{factor}; goal {goal}: {'met' if met else 'MISSED'}", flush=True)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(json.dumps(self.rows, indent=2) + "\n", encoding="utf-8")

    def measure(self, **job: Any) -> dict[str, float]:
        """Run one measurement in a process of its own."""
        threads = str(self.options.threads)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "scripts.bench.workers.mine", json.dumps(job)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"bench_mine: {job}\n{done.stderr[-3000:]}")
        figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"    {job}: {figures}", flush=True)
        return figures


def write_vectors(folder: Path, queries: int, documents: int) -> None:
    """Write files of vectors: documents around centres, and anchors, each near one of the first documents."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, WIDTH)).astype(np.float32)
    with (folder / "d.f32").open("wb") as document_file, (folder / "q.f32").open("wb") as query_file:
        for first in range(0, documents, 50_000):
            count = min(50_000, documents - first)
            vectors = centres[rng.integers(0, 1000, count)] + 1.2 * rng.normal(size=(count, WIDTH)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors.tofile(document_file)
            near = vectors[: max(0, queries - first)]
            near = near + 0.05 * rng.normal(size=near.shape).astype(np.float32)
            (near / np.linalg.norm(near, axis=1, keepdims=True)).tofile(query_file)


def search(bench: Bench, queries: int, documents: int, *, memory: float) -> None:
    """Time and memory of the whole call on each side, in turns."""
    sides, repeats = bench.options.sides, 1 if bench.options.quick else bench.options.repeats
    batch = max(256, min(16_384, (4 << 30) // (4 * documents)))  # the peer's matrix of scores: at most 4 GiB
    by_side: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(Path(folder), queries, documents)
        common = {"kind": "search", "folder": folder, "queries": queries, "documents": documents}
        for _ in range(repeats):
            for side in sides:
                size = {"ours": 16_384, "peer": batch, "faiss": 16_384}[side]
                by_side[side].append(bench.measure(side=side, batch=size, threads=bench.options.threads, **common))
    middle = {s: {k: statistics.median(turn[k] for turn in all_) for k in all_[0]} for s, all_ in by_side.items()}
    if len({figures["negatives"] for figures in middle.values()}) > 1:
        print(f"    negatives differ: { {side: figures['negatives'] for side, figures in middle.items()} }")
    for side in ("peer", "faiss"):
        if {"ours", side} <= set(middle):
            ours, peer = middle["ours"], middle[side]
            label = (
                f"{queries:,} x {documents:,}, against sentence-transformers, {'FAISS' if side == 'faiss' else 'exact'}"
            )
            bench.add(
                f"time, {label}", ours["seconds"], peer["seconds"], "s", ours["seconds"] / peer["seconds"], "<= 1"
            )
            bench.add(
                f"memory, {label}", ours["peak"], peer["peak"], "MiB", peer["peak"] / ours["peak"], f">= {memory}"
            )


def small(bench: Bench) -> None:
    """Search 100,000 documents for 10,000 anchors."""
    search(bench, *((1000, 10_000) if bench.options.quick else (10_000, 100_000)), memory=1)


def large(bench: Bench) -> None:
    """Search 500,000 documents for 50,000 anchors."""
    queries, documents, memory = (2000, 50_000, 1) if bench.options.quick else (50_000, 500_000, 4)
    search(bench, queries, documents, memory=memory)


def capped(bench: Bench) -> None:
    """Search a corpus of at least ten times the peak memory of the process."""
    size, queries = (3000, 64) if bench.options.quick else (8000, 256)
    with tempfile.TemporaryDirectory() as folder:
        vectors = bench.measure(kind="corpus", size=size, folder=folder)["corpus"]
        figures = bench.measure(kind="capped", queries=queries, folder=folder)
    name = f"{vectors:,.0f} MiB of vectors searched by a process of {figures['peak']:,.0f} MiB"
    bench.add(
        name, vectors / figures["peak"], None, "times the memory", None, ">= 4" if bench.options.quick else ">= 10"
    )


def sweep(bench: Bench) -> None:
    """Try 20 rules over a large table of candidates."""
    rows = 65_536 if bench.options.quick else 1_000_000
    figures = bench.measure(kind="sweep", rows=rows, width=50)
    bench.add(
        f"sweep, {figures['settings']} rules over {rows:,} rows of 50", figures["seconds"], None, "s", None, "<= 120"
    )


def truth(bench: Bench) -> None:
    """Planted negatives: how many hard ones are found and kept, how many false ones are kept, by the default rule."""
    rows = 1500 if bench.options.quick else 6000
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "scripts.drills.planted_truth", folder, "--rows", str(rows)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    shares = json.loads(done.stdout.strip().splitlines()[-1])
    for label, key, goal in (
        ("hard negatives among the candidates", "found", ">= 0.95"),
        ("hard negatives kept", "kept", ">= 0"),
        ("false negatives kept", "false", "<= 0.01"),
    ):
        bench.add(f"planted {label}, {rows:,} rows", shares[key], None, "share", None, goal)


PARTS = {"small": small, "large": large, "capped": capped, "sweep": sweep, "truth": truth}


def flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m scripts.bench.mine", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, once each")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="who searches")
    parser.add_argument("--out", default="runs/bench", help="directory of mine.json")
    parser.add_argument("--afresh", action="store_true", help="forget the rows of an earlier run")
    parser.add_argument("--repeats", type=int, default=1, help="turns of each comparison; the median counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def main() -> None:
    """Measure the parts and write the report."""
    options = flags()
    bench = Bench(options)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads")
    for part in options.only:
        print(part, flush=True)
        PARTS[part](bench)
    print(f"{sum(row['met'] for row in bench.rows)} of {len(bench.rows)} goals met; {bench.target}")


if __name__ == "__main__":
    main()
