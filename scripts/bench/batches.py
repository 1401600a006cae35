"""Measure composing epochs and feeding from them: `python -m scripts.bench.batches [--quick] [--only PART ...]`.

Parts: compose (rows/s and memory of all processes for millions of synthetic rows on Ray, with what is left of planted
duplicates), peer (the same rows beside Sentence Transformers' NO_DUPLICATES sampler over `datasets`, two ranks),
balance (tokens of ranks and padding on the lengths of real corpora), wait (share of a step that waits for its batch).
Writes {out}/batches.json: a list of {name, ours, peer, unit, ratio, goal, met}.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.bench.memory import Memory

ROOT = Path(__file__).resolve().parents[2]
SETS = ("movies_msrd", "debian_packages", "covidqa", "medquad")
MILLION = 1_000_000
Row = dict[str, Any]


class Bench:
    """Starts measurements and collects the rows of the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick, self.data, self.work = options.quick, options.data, options.work
        self.millions: list[float] = options.millions or ([0.2, 0.5] if options.quick else [1, 5, 20])
        self.rows: list[Row] = []

    def add(self, name: str, ours: float, peer: float | None, unit: str, ratio: float | None, goal: str) -> None:
        """Add a row; the goal is on the ratio, or on our figure where there is no peer."""
        sign, limit = goal.split()
        figure = ours if ratio is None else ratio
        met = figure >= float(limit) if sign == ">=" else figure <= float(limit)
        self.rows.append(
            {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "goal": goal, "met": met}
        )
        comparison = ("" if peer is None else f" against {peer:,.4g}") + (
            "" if ratio is None else f", ratio {ratio:.2f}"
        )
        print(f"  {name}: {ours:,.4g} {unit}{comparison}; goal {goal}: {'met' if met else 'MISSED'}", flush=True)

    def measure(self, **job: Any) -> dict[str, float]:
        """Run one measurement in a process of its own, and what it starts; its memory is that of all together."""
        command = [sys.executable, "-m", "scripts.bench.workers.batches", json.dumps({"data": self.data, **job})]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            with Memory(process.pid) as memory:
                process.wait()
            output.seek(0)
            text = output.read()
        if process.returncode:
            raise SystemExit(f"bench_batches: {command}\n{text[-3000:]}")
        return json.loads(text.strip().splitlines()[-1]) | {"memory": memory.peak}


def compose(bench: Bench) -> None:
    """Rows a second and memory of composing an epoch on Ray, by rows; then every batch is checked."""
    peaks = []
    for millions in bench.millions:
        rows = int(millions * MILLION)
        folder = Path(tempfile.mkdtemp(prefix="bench-batches-", dir=bench.work))
        try:
            synthetic = bench.measure(kind="synthetic", rows=rows, folder=str(folder))
            epoch = bench.measure(kind="compose", folder=str(folder))
            label = f"{millions:g} million rows, {synthetic['tokens'] / rows:.0f} tokens each"
            bench.add(f"compose, {label}", epoch["rows_per_s"], None, "rows/s", None, ">= 50000")
            bench.add(f"memory of composing, {label}", epoch["memory"], None, "MiB", None, "<= 4096")
            checked = bench.measure(kind="check", folder=str(folder))
            bench.add(f"false negatives left, {label}", checked["conflicts"], None, "rows", None, "<= 0")
            bench.add(f"rows placed or listed, {label}", checked["accounted"], None, "share", None, ">= 1")
            bench.add(f"heaviest of 2 ranks, {label}", checked["heaviest_2"], None, "of the mean", None, "<= 1.05")
            bench.add(f"heaviest of 4 ranks, {label}", checked["heaviest_4"], None, "of the mean", None, "<= 1.05")
            peaks.append(epoch["memory"])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if len(peaks) > 1:
        name = f"memory, {bench.millions[-1]:g} against {bench.millions[0]:g} million rows"
        bench.add(name, peaks[-1], peaks[0], "MiB", peaks[-1] / peaks[0], "<= 1.5")


def peer(bench: Bench) -> None:
    """The same rows through Sentence Transformers' NO_DUPLICATES sampler, as two ranks share its batches."""
    for name, rows in ((None, 20_000 if bench.quick else 200_000), ("movies_msrd", 50_000), ("medquad", 50_000)):
        job = {"kind": "batches", "set": name, "rows": rows}
        ours, theirs = (bench.measure(**job, side=side) for side in ("ours", "peer"))
        label = f"{name or f'{rows:,} synthetic rows'}, batches of 64 over 2 ranks"
        speed = ours["rows_per_s"], theirs["rows_per_s"]
        bench.add(f"compose in one process, {label}", *speed, "rows/s", speed[0] / speed[1], ">= 1")
        peaks = ours["memory"], theirs["memory"]
        bench.add(f"memory, {label}", *peaks, "MiB", peaks[0] / peaks[1], "<= 1.5")
        left = ours["conflicts"], theirs["conflicts"]
        bench.add(f"rows with a false negative in their global batch, {label}", *left, "rows", None, "<= 0")


def balance(bench: Bench) -> None:
    """Tokens of the heaviest rank and padding on real lengths, with and without balancing."""
    for name in SETS[-1:] if bench.quick else SETS:
        shares = bench.measure(kind="balance", set=name)
        for ranks in (2, 4):
            pair = shares[f"dealt_{ranks}"], shares[f"in_order_{ranks}"]
            bench.add(f"heaviest of {ranks} ranks, {name}", *pair, "of the mean", None, "<= 1.05")
            times = shares[f"worst_{ranks}"], shares[f"worst_in_order_{ranks}"]
            bench.add(f"heaviest of {ranks} ranks, worst batch, {name}", *times, "of the mean", None, "<= 1.1")
        padding = shares["padding"], shares["padding_in_order"]
        ratio = padding[0] / padding[1]
        bench.add(f"padding, {name}, in chunks by length against one block", *padding, "share", ratio, "<= 0.75")


def wait(bench: Bench) -> None:
    """Share of the time of training that waits for a batch."""
    waits = bench.measure(kind="wait", set="medquad", steps=6 if bench.quick else 20)
    bench.add("wait for batches, medquad, 64 rows", waits["wait"], None, "share", None, "<= 0.02")
    bench.add("batch read and cut, medquad, 64 rows", waits["ready_ms"], None, "ms", None, "<= 50")


PARTS = {"compose": compose, "peer": peer, "balance": balance, "wait": wait}


def flags() -> argparse.Namespace:
    """Read the command line."""
    near = os.environ.get("TRIPLETAIL_DATA") or str(ROOT.parent / "shared" / "data")
    parser = argparse.ArgumentParser("python -m scripts.bench.batches", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: minutes instead of half an hour")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--millions", nargs="+", type=float, help="of synthetic rows, default 1 5 20")
    parser.add_argument("--work", help="directory for synthetic rows; 20 million take 10 GB")
    parser.add_argument("--out", default="runs/bench", help="directory of batches.json")
    parser.add_argument("--data", default=near, help="directory of the corpora")
    return parser.parse_args()


def main() -> None:
    """Measure the parts and write the report."""
    options = flags()
    bench = Bench(options)
    print(f"{os.cpu_count()} CPUs", flush=True)
    started = time.monotonic()
    for part in options.only:
        print(part, flush=True)
        PARTS[part](bench)
    target = Path(options.out) / "batches.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bench.rows, indent=2) + "\n", encoding="utf-8")
    met = sum(row["met"] for row in bench.rows)
    print(f"{met} of {len(bench.rows)} goals met in {time.monotonic() - started:.0f} s; {target}")


if __name__ == "__main__":
    main()
