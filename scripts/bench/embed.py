"""Measure embedding beside its peers: `python -m scripts.bench.embed [--quick] [--only PART ...]`.

Parts: encode (against SentenceTransformer.encode, at equal precision and the fastest of ours), static, jobs (against
its pool of processes and a plain Ray Data pipeline), workers (two against one), memory (ten times the documents),
quality (what the fastest backend costs in nDCG@10). Every figure comes from processes of its own, in turns. Writes
{out}/embed.json: a list of {name, ours, peer, unit, ratio, goal, met}; parts that are not measured keep their rows.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from scripts.bench.harness import medians, update_rows

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = "gt:all-minilm-l6-v2"
TEXT_SETS = ["debian_packages", "movies_msrd", "medquad"]
RETRIEVAL_SETS = {"medquad": "qa/medquad", "covidqa": "qa/covidqa", "movies_msrd": "product/movies_msrd"}
Figures = dict[str, float]


class Bench:
    """Starts measurements and collects the rows of the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick, self.data, self.threads = options.quick, options.data, options.threads
        self.repeats: int = 1 if options.quick else options.repeats
        self.clock: str = options.clock
        self.rows: int = options.rows or (240 if options.quick else 600)
        self.work = Path(options.out) / "embed-models"
        self.results: list[dict[str, Any]] = []

    def add(self, name: str, ours: float, peer: float | None, unit: str, ratio: float | None, goal: str) -> None:
        """Add a row; the goal is on the ratio, or on our figure where there is no peer."""
        sign, limit = goal.split()
        figure = ours if ratio is None else ratio
        met = figure >= float(limit) if sign == ">=" else figure <= float(limit)
        row = {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "goal": goal, "met": met}
        self.results.append(row)
        line = f"{ours:,.4g} {unit}" + ("" if peer is None else f" against {peer:,.4g}")
        line += "" if ratio is None else f", ratio {ratio:.3f}"
        print(f"  {name}: {line}; goal {goal}: {'met' if met else 'MISSED'}", flush=True)

    def measure(self, **job: Any) -> Figures:
        """Run one measurement in a process of its own."""
        defaults: dict[str, Any] = {
            "data": self.data,
            "sets": TEXT_SETS,
            "rows": self.rows,
            "threads": self.threads,
            "model": SAMPLE,
        }
        if job["side"] in ("ours", "peer"):
            defaults["clock"] = self.clock
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "scripts.bench.workers.embed", json.dumps(defaults | job)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"bench_embed: {job}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        figures: Figures = json.loads(done.stdout.strip().splitlines()[-1])
        return figures

    def turns(self, *jobs: partial[Figures]) -> list[Figures]:
        """Medians of jobs that are measured in turns."""
        return medians(self.repeats, jobs)

    def int8(self) -> str:
        """The sample model with its int8 graph, calibrated on Debian's descriptions."""
        from pipeline.core.config import validate
        from pipeline.encoder.export import ExportConfig, run

        out = self.work / "int8"
        if not out.exists():
            texts = str(Path(self.data) / "product" / "debian_packages" / "corpus.parquet")
            run(validate(ExportConfig, {"model": SAMPLE, "to": ["int8"], "input": texts, "out": str(out)}))
        return str(out)

    def static(self) -> str:
        """A static model out of the sample model."""
        from pipeline.encoder.distillation import distill
        from pipeline.encoder.encoder import Encoder, EncoderConfig

        out = self.work / "static"
        if not out.exists():
            distill(Encoder.load(EncoderConfig(model=SAMPLE), "cpu"), 256, "embeddings").save(out)
        return str(out)


def encode(bench: Bench) -> None:
    """Our encoder against SentenceTransformer.encode on texts of mixed length."""
    ours = partial(bench.measure, side="ours")
    peer = partial(bench.measure, side="peer")
    jobs = [
        partial(peer, dtype="float32"),
        partial(peer, dtype="bfloat16"),
        partial(ours, dtype="float32", backend="openvino"),
        partial(ours, dtype="bfloat16", backend="openvino"),
        partial(ours, dtype="float32", backend="torch"),
        partial(ours, dtype="bfloat16", backend="torch"),
        partial(ours, dtype="int8", model=bench.int8()),
    ]
    names = ["fp32", "bf16", "openvino fp32", "openvino bf16", "torch fp32", "torch bf16", "int8"]
    by_encoder = dict(zip(names, bench.turns(*jobs), strict=True))
    speed = {name: figures["docs_per_s"] for name, figures in by_encoder.items()}
    for name, other, goal in (
        ("openvino fp32", "fp32", ">= 1.2"), ("openvino bf16", "bf16", ">= 1.2"), ("torch fp32", "fp32", ">= 1"),
        ("torch bf16", "bf16", ">= 1"), ("openvino bf16", "fp32", ">= 1"), ("int8", "fp32", ">= 3"),
    ):  # fmt: skip
        label = f"encode, {name}, against SentenceTransformer.encode in {other}"
        bench.add(label, speed[name], speed[other], "docs/s", speed[name] / speed[other], goal)
    peaks = by_encoder["int8"]["peak"], by_encoder["fp32"]["peak"]
    bench.add("encode, memory, int8 against SentenceTransformer fp32", *peaks, "MiB", peaks[1] / peaks[0], ">= 0.5")


def static(bench: Bench) -> None:
    """The static encoder against SentenceTransformer.encode of the transformer in fp32."""
    rows = 20_000 if bench.quick else 60_000
    ours, peer = bench.turns(
        partial(bench.measure, side="ours", model=bench.static(), rows=rows),
        partial(bench.measure, side="peer", dtype="float32"),
    )
    speed = ours["docs_per_s"], peer["docs_per_s"]
    bench.add("static encoder against SentenceTransformer.encode fp32", *speed, "docs/s", speed[0] / speed[1], ">= 100")


def jobs(bench: Bench) -> None:
    """The whole job, start of its actors included, against what others offer for many documents."""
    rows = bench.rows if bench.quick else 8 * bench.rows
    same = {"rows": rows, "workers": 2, "threads": 1}
    ours, fast, pool, plain = bench.turns(
        partial(bench.measure, side="job", dtype="float32", **same),
        partial(bench.measure, side="job", dtype="int8", model=bench.int8(), **same),
        partial(bench.measure, side="peer_pool", **same),
        partial(bench.measure, side="plain_ray", **same),
    )
    for label, peer in (("Sentence Transformers' pool", pool), ("plain Ray Data map_batches", plain)):
        for name, figures in (("fp32", ours), ("int8", fast)):
            speed = figures["docs_per_s"], peer["docs_per_s"]
            bench.add(f"job, {name}, two actors, against {label}", *speed, "docs/s", speed[0] / speed[1], ">= 1")


def workers(bench: Bench) -> None:
    """Two actors against one, a thread each: rate while all are busy, so that the start does not count."""
    shard, pause = 32 if bench.quick else 128, 30.0  # looks at memory would take of the second worker's CPU
    some = {"side": "job", "dtype": "bfloat16", "threads": 1, "shard": shard, "pause": pause}
    rows = bench.rows * (2 if bench.quick else 8)
    single, double = bench.turns(*(partial(bench.measure, rows=rows, workers=count, **some) for count in (1, 2)))
    speed = double["steady_docs_per_s"], single["steady_docs_per_s"]
    bench.add("two workers against one", *speed, "docs/s", speed[0] / speed[1], ">= 1.8")


def memory(bench: Bench) -> None:
    """Peak of all processes of the job at ten times the documents, with a static model, which is fast enough."""
    sizes = (5_000, 50_000) if bench.quick else (50_000, 500_000)
    same = {"side": "job", "model": bench.static(), "workers": 1, "shard": 4096, "distinct": 50_000}
    small, large = (bench.measure(rows=rows, **same) for rows in sizes)
    label = f"memory of the job, {sizes[1]:,} documents against {sizes[0]:,}"
    bench.add(label, large["peak"], small["peak"], "MiB", large["peak"] / small["peak"], "<= 1.15")
    bench.add("static job, docs/s with Parquet and checks", large["docs_per_s"], None, "docs/s", None, ">= 3000")


def quality(bench: Bench) -> None:
    """nDCG@10 of the fastest backend against float32, over 1,500 real queries and a part of each corpus."""
    for name, folder in RETRIEVAL_SETS.items():
        job = {"side": "quality", "sets": [folder]}
        job |= {"rows": 800, "queries": 200} if bench.quick else {"rows": 3000, "queries": 1500}
        plain = bench.measure(**job, dtype="float32", backend="torch")["ndcg"]
        fast = bench.measure(**job, dtype="int8", model=bench.int8())["ndcg"]
        half = bench.measure(**job, dtype="bfloat16", backend="openvino")["ndcg"]
        bench.add(f"nDCG@10 of {name}, int8 against fp32", fast, plain, "nDCG", fast / plain, ">= 0.995")
        bench.add(f"nDCG@10 of {name}, openvino bf16 against fp32", half, plain, "nDCG", half / plain, ">= 0.995")


PARTS = {
    "encode": encode,
    "static": static,
    "jobs": jobs,
    "workers": workers,
    "memory": memory,
    "quality": quality,
}


def flags() -> argparse.Namespace:
    """Read the command line."""
    near = os.environ.get("TRIPLETAIL_DATA") or str(ROOT.parent / "shared" / "data")
    parser = argparse.ArgumentParser("python -m scripts.bench.embed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, once each")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", default="runs/bench", help="directory of embed.json")
    parser.add_argument("--data", default=near, help="directory of the corpora")
    parser.add_argument("--rows", type=int, help="documents of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each comparison; the median counts")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds that encoding took of the processors, for machines that others use too",
    )
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    return parser.parse_args()


def main() -> None:
    """Measure the parts and write the report."""
    options = flags()
    bench = Bench(options)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads, {options.clock} clock")
    target = Path(options.out) / "embed.json"
    for part in options.only:
        print(part, flush=True)
        PARTS[part](bench)
        update_rows(target, bench.results)
    print(f"{sum(row['met'] for row in bench.results)} of {len(bench.results)} goals met; {target}")


if __name__ == "__main__":
    main()
