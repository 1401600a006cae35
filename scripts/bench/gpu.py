"""Measure one GPU beside its peer: `python -m scripts.bench.gpu [--quick] [--only PART ...]`; Ray is not needed.

Parts: encode (shards as an actor of the embedding job does them, against SentenceTransformer.encode), plain and cached
(a step against Sentence Transformers' trainer), loss (tiled against dense), largest (rows of one batch). Two models:
the one given, and BERT-base with random weights, whose speed is that of trained ones. Beside each rate stand tokens a
second and the share of the card's own rate in a large matrix product that the model's arithmetic reaches, counted
without padding and without what is computed twice. Writes {out}/gpu.json, a list of {name, ours, peer, unit, ratio}.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from pipeline.core.actor_pool import CALLS_PER_GPU_ACTOR
from pipeline.encoder import model_directory
from pipeline.encoder.encoder import Encoder, EncoderConfig
from scripts.bench.harness import SETS, medians
from scripts.bench.workers import train_step
from scripts.bench.workers.embed import texts_of
from scripts.bench.workers.gpu import DEVICE, Figures, base, embedded, flops, fresh, peer_encoded, product_rate

TEXT_SETS = ["debian_packages", "movies_msrd", "medquad"]
TILE = 1024


class Bench:
    """Settings of the measurements, and the rows of the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rows, self.cuda = options, [], DEVICE == "cuda"
        self.encoder_settings = {"attention": options.attention, "token_budget": options.token_budget}
        self.repeats: int = 1 if options.quick else options.repeats
        self.name = torch.cuda.get_device_name() if self.cuda else "cpu"
        self.models = {"MiniLM": model_directory.resolve_model(options.model)}
        self.rate = product_rate(8192 if self.cuda else 1024)

    def add(self, name: str, ours: Figures, peer: Figures | None, unit: str, better: str = "more") -> None:
        """Add a row: our figure and the peer's in `unit`, and the other figures of both."""
        key = unit.replace("/", "_per_")
        ratio = None if peer is None else ours[key] / peer[key]
        row = {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "better": better}
        self.rows.append({**row, "device": self.name})
        line = f"{_line(ours)}" + ("" if peer is None else f" | peer {_line(peer)} | ratio {ratio:.3g}")
        print(f"  {name}: {line}", flush=True)

    def turns(self, *jobs: Callable[[], Figures]) -> list[Figures]:
        """Medians of jobs that are measured in turns."""
        return medians(self.repeats, [partial(fresh, job) for job in jobs])

    def step(self, model: str, **job: Any) -> Figures:
        """Steps of training, with tokens a second and the share of the card's rate."""
        options = self.options
        settings = {
            "side": "ours", "data": options.data, "length": 128, "layers": None, "cache": None, "tile": None,
            "fill": False, "precision": "bfloat16", "ranks": 1, "steps": 6 if options.quick else options.steps,
            "device": DEVICE, "model": self.models[model],
        } | self.encoder_settings | job  # fmt: skip
        figures = train_step.step(settings)
        lengths = lengths_of(settings["model"], options.data, settings["set"], settings["batch"], settings["length"])
        pairs = len(lengths) / 2
        figures["tokens_per_s"] = figures["pairs_per_s"] * sum(lengths) / pairs
        arithmetic = 3 * flops(settings["model"], lengths) / pairs
        return figures | {"mfu": figures["pairs_per_s"] * arithmetic / self.rate}


@cache
def lengths_of(model: str, data: str, name: str, rows: int, max_length: int) -> list[int]:
    """Token counts, at most `max_length` each, of the texts of a sample of a job's pairs; `rows` is its batch size."""
    encoder = Encoder.load(EncoderConfig(model=model, max_length=max_length, layers=1), "cpu")
    pairs = train_step.rows_of({"data": data, "set": name, "batch": rows, "length": max_length, "fill": False})
    return [len(row) for row in encoder.tokenize([text for pair in pairs[:4000] for text in pair], "document")]


def loss(bench: Bench) -> None:
    """Tiled against dense InfoNCE: memory and time."""

    def measured(rows: int, tile: int | None) -> Figures:
        return train_step.loss({"rows": rows, "tile": tile, "repeats": 5, "device": DEVICE})

    rows = 32768 if bench.cuda else 2048
    ours, peer = bench.turns(partial(measured, rows, TILE), partial(measured, rows, None))
    bench.add(f"loss, {rows:,} rows, tiled against dense, time", ours, peer, "seconds", "less")
    bench.add(f"loss, {rows:,} rows, tiled against dense, memory", ours, peer, "peak", "less")
    huge = rows * 8
    bench.add(f"loss, {huge:,} rows, tiled", fresh(partial(measured, huge, TILE)), None, "seconds", "less")


def plain(bench: Bench) -> None:
    """A step against Sentence Transformers' trainer."""
    _steps(bench, "plain", 256 if bench.cuda else 32, None)


def cached(bench: Bench) -> None:
    """A step with a gradient cache against Sentence Transformers' cached loss, chunks of equal size on both sides."""
    _steps(bench, "cached", 2048 if bench.cuda else 64, 128 * bench.options.mini_batch)


def _steps(bench: Bench, kind: str, rows: int, budget: int | None) -> None:
    for model in bench.models:
        for name in bench.options.sets[: 1 if bench.options.quick else None]:
            step = partial(bench.step, model, set=name, batch=rows, cache=budget)
            ours, peer = bench.turns(step, partial(step, side="peer"))
            bench.add(f"training, {model}, {name}, {rows:,} rows, {kind}", ours, peer, "pairs/s")


def largest(bench: Bench) -> None:
    """The most rows of 128 tokens in one batch: plain until memory is out, cached as far as time allows."""
    limits = {None: 1 << 17, 65536: 1 << 15} if bench.cuda else {None: 32, 2048: 32}
    for budget, limit in limits.items():
        rows, figures = (2048 if bench.cuda else 16), {}
        while rows <= limit:
            job = partial(bench.step, "MiniLM", set="words", batch=rows, cache=budget, tile=TILE, steps=3)
            try:
                figures = {"rows": float(rows), **fresh(job)}
            except torch.OutOfMemoryError:
                break
            rows *= 2 if budget is None else 16
        bench.add(f"largest batch, {'plain' if budget is None else 'cached'}", figures, None, "rows")


def encode(bench: Bench) -> None:
    """Shards into files of vectors, as actors do them, against SentenceTransformer.encode in the same precision."""
    rows = 65_536 if bench.cuda else 200
    for model in bench.models:
        texts = texts_of(bench.options.data, TEXT_SETS, rows)
        texts = (texts * -(-rows // len(texts)))[:rows]
        config = EncoderConfig(model=bench.models[model], dtype="bfloat16", **bench.encoder_settings)
        ours_with = partial(embedded, config, texts, rows=4096 if bench.cuda else 64, rate=bench.rate)
        ours, alone, peer = bench.turns(
            partial(ours_with, calls=CALLS_PER_GPU_ACTOR),
            partial(ours_with, calls=1),
            partial(peer_encoded, config, texts[: rows // 8], bench.options.peer_batch, bench.rate),
        )
        bench.add(f"encode, {model}, {CALLS_PER_GPU_ACTOR} shards at a time", ours, peer, "docs/s")
        bench.add(f"encode, {model}, one shard after another", alone, peer, "docs/s")


def _line(figures: Figures) -> str:
    return ", ".join(f"{key} {value:,.4g}" for key, value in figures.items())


PARTS = {"encode": encode, "plain": plain, "cached": cached, "loss": loss, "largest": largest}


def flags() -> argparse.Namespace:
    """Read the command line."""
    near = os.environ.get("TRIPLETAIL_DATA") or str(Path(__file__).resolve().parents[3] / "shared" / "data")
    parser = argparse.ArgumentParser("python -m scripts.bench.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one corpus a model, once")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", default="runs/bench", help="directory of gpu.json")
    parser.add_argument("--data", default=near, help="directory of the corpora")
    parser.add_argument("--model", default=model_directory.SAMPLE_MODEL, help="the small model")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on a machine without GPU, to try the script")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each comparison; the median counts")
    parser.add_argument("--steps", type=int, default=20, help="steps of one measurement, two of them to warm up")
    parser.add_argument("--mini-batch", type=int, default=512, help="texts of a chunk of the cached loss, both sides")
    parser.add_argument("--peer-batch", type=int, default=256, help="batch_size of SentenceTransformer.encode")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--attention", default="auto", help="of our encoder")
    parser.add_argument("--token-budget", type=int, help="of our encoder")
    return parser.parse_args()


def main() -> None:
    """Measure the parts and write the report."""
    options = flags()
    if DEVICE == "cpu" and not options.dry:
        raise SystemExit("bench_gpu: no GPU here; --dry tries the script at tiny sizes")
    bench = Bench(options)
    print(f"{bench.name}, torch {torch.__version__}, matrix product {bench.rate / 1e12:.0f} TFLOP/s in bfloat16")
    target = Path(options.out) / "gpu.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bench.models["BERT-base"] = base(folder, bench.models["MiniLM"], 12 if bench.cuda else 1)
        for part in options.only:
            print(part, flush=True)
            PARTS[part](bench)
            target.write_text(json.dumps(bench.rows, indent=2) + "\n", encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
