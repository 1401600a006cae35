"""Parts of `scripts.bench.train_step` about a decoder like Qwen3, and about the tokens of long texts."""

import tempfile
from functools import partial
from typing import TYPE_CHECKING

from pipeline.encoder.model_directory import SAMPLE_MODEL, resolve_model
from scripts.bench.workers.decoder import make
from scripts.bench.workers.embed import SETS

if TYPE_CHECKING:
    from scripts.bench.train_step import Bench


def decoder(bench: "Bench") -> None:
    """Steps and `encode` of two layers of Qwen3's 0.6B model against Sentence Transformers' trainer and encoder."""
    with tempfile.TemporaryDirectory() as folder:
        model = make(folder, resolve_model(SAMPLE_MODEL))
        for name in ("debian_packages",) if bench.quick else ("debian_packages", "medquad"):
            for kind, rows, tokens in (("plain", 64, None), ("cached", 256, 4096)):
                rows = rows // 8 if bench.quick else rows
                step = partial(bench.step, set=name, batch=rows, cache=tokens, model=model, layers=None)
                ours, peer = bench.turns(step, partial(step, side="peer"))
                label = f"decoder, {name}, {rows} rows, {kind}, against sentence-transformers"
                speed = ours["pairs_per_s"], peer["pairs_per_s"]
                bench.add(f"training, {label}", *speed, "pairs/s", speed[0] / speed[1], ">= 1.1")
                bench.add(f"memory, {label}", ours["peak"], peer["peak"], "MiB", peer["peak"] / ours["peak"], ">= 1")
        texts = {"kind": "encode", "data": bench.data, "sets": [*SETS], "rows": 60 if bench.quick else 300}
        for dtype in ("float32", "bfloat16"):
            encode = partial(bench.measure, model=model, dtype=dtype, **texts)
            ours, peer = bench.turns(partial(encode, side="ours"), partial(encode, side="peer"))
            speed = ours["docs_per_s"], peer["docs_per_s"]
            label = f"encode, decoder, {dtype}, against SentenceTransformer.encode"
            bench.add(label, *speed, "docs/s", speed[0] / speed[1], ">= 1")
            bench.add(f"memory, {label}", ours["peak"], peer["peak"], "MiB", peer["peak"] / ours["peak"], ">= 0.5")


def tokenise(bench: "Bench") -> None:
    """Tokens of medquad's documents cut to 128, and of one text of 216,000 characters, against transformers'."""
    job = {"kind": "tokenise", "data": bench.data, "length": 128, "rows": 500 if bench.quick else 15_000}
    run = partial(bench.measure, model=resolve_model(SAMPLE_MODEL), threads=1, **job)
    ours, peer = bench.turns(partial(run, side="ours"), partial(run, side="peer"))
    for name, key, unit, goal in (
        ("medquad at 128 tokens", "docs_per_s", "docs/s", ">= 1.5"),
        ("a text of 216,000 characters", "milliseconds", "ms", "<= 0.1"),
    ):
        bench.add(f"tokenising, {name}, against transformers", ours[key], peer[key], unit, ours[key] / peer[key], goal)
