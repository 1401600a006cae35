"""One measurement of composing or feeding in one process: `python -m scripts.bench.workers.batches '{"kind": ...}'`.

Prints one line of JSON. `scripts.bench.batches` starts these and measures the memory of all that they start.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scripts.bench.harness import read_text_pairs

if TYPE_CHECKING:
    from training.data.rows_artifact import Piece

SIZE, SEED = 64, 13
CHUNK = 65_536


def planted(first: int, count: int, total: int) -> tuple[Any, Any, Any]:
    """Queries [n], documents [n] and relevant documents [n, 2] (-1 for none) of rows `first` on, of `total`.

    Of each 50 rows the 7th repeats the question of the 8th of some other 50, with another answer, and the 13th has
    the document of the 14th of some other 50: both may lie anywhere.
    """
    row = np.arange(first, first + count)
    groups = max(1, total // 50)
    step = next(candidate for candidate in range(groups // 3 + 1, groups + 3) if math.gcd(candidate, groups) == 1)
    back = pow(step, -1, groups) if groups > 1 else 0
    group, position = row // 50, row % 50
    inside = group < groups
    query, document = row.copy(), row.copy()
    relevant = np.stack([row, np.full(count, -1)], axis=1)
    repeats, sources = inside & (position == 7), inside & (position == 8)
    query[repeats] = relevant[repeats, 1] = group[repeats] * step % groups * 50 + 8
    relevant[sources, 1] = group[sources] * back % groups * 50 + 7
    same = inside & (position == 13)
    document[same] = relevant[same, 0] = group[same] * step % groups * 50 + 14
    return query, document, relevant


def synthetic_rows(rows: int) -> Iterator["Piece"]:
    """Tokenised rows with planted siblings and duplicates; lengths are log-normal, about 12 and 30 tokens."""
    from training.data.relevance import RELEVANT, distinct_queries
    from training.data.rows_artifact import Piece
    from training.data.tokenized import NEGATIVE, SCHEMA

    vocabulary = np.exp(np.linspace(0, np.log(30_000), 1 << 16)).astype(np.int32)  # common words more often
    for first in range(0, rows, CHUNK):
        count = min(CHUNK, rows - first)
        rng = np.random.default_rng([SEED, first, 1])
        query, document, relevant = planted(first, count, rows)

        def texts(middle: float, longest: int, count: int = count, rng: Any = rng) -> pa.Array:
            lengths = np.exp(rng.normal(np.log(middle), 0.5, count)).clip(4, longest).astype(np.int64)
            words = vocabulary[rng.integers(0, len(vocabulary), int(lengths.sum()))]
            return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), words)

        ends = pa.array(np.concatenate([[0], np.cumsum((relevant >= 0).sum(axis=1))]).astype(np.int32))
        columns: dict[str, Any] = {
            "row": np.arange(first, first + count),
            "stream": pa.array([""] * count),
            "source": pa.array(["synthetic"] * count),
            "table": pa.array(["pairs"] * count),
            "table_row": np.arange(first, first + count),
            "share": np.ones(count),
            "query_id": query,
            "positive_id": document,
            "anchor": texts(12, 64),
            "positive": texts(30, 128),
            "negatives": pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], NEGATIVE)),
        }
        table = pa.table([columns.get(field.name, pa.nulls(count, field.type)) for field in SCHEMA], schema=SCHEMA)
        lists = pa.ListArray.from_arrays(ends, pa.array(relevant[relevant >= 0]))
        queries = pa.table([pa.array(query), lists, pa.nulls(count, lists.type)], schema=RELEVANT)
        yield Piece(table, distinct_queries(queries))


def synthetic(job: dict[str, Any]) -> dict[str, float]:
    """Write an artifact of synthetic rows."""
    from training.data.rows_artifact import write_rows

    start = time.perf_counter()
    artifact = write_rows(f"{job['folder']}/rows", {}, {}, synthetic_rows(job["rows"]))
    return {"seconds": time.perf_counter() - start, "tokens": artifact.manifest.notes["tokens"]}


def compose(job: dict[str, Any]) -> dict[str, float]:
    """Compose an epoch on Ray."""
    from pipeline.core import ray_session as engine
    from pipeline.storage.artifact import Artifact
    from training.data.epoch import EpochSettings
    from training.data.epoch_composer import compose_epoch
    from training.run.epochs import on_ray

    engine.start()
    rows = Artifact.open(f"{job['folder']}/rows", "rows")
    folder = f"{job['folder']}/epoch"
    start = time.perf_counter()
    epoch = compose_epoch(rows, EpochSettings(SIZE, SEED), 0, folder, on_ray(f"{folder}/staging/marks"))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows_per_s": rows.rows("rows") / seconds, "steps": epoch.manifest.notes["steps"]}


def check(job: dict[str, Any]) -> dict[str, float]:
    """Look for rows whose document another row of their batch has too, for lost rows, and at the balance of ranks."""
    from pipeline.storage.artifact import Artifact
    from pipeline.storage.files import open_parquet

    epoch = Artifact.open(f"{job['folder']}/epoch", "epoch")
    total = Artifact.open(f"{job['folder']}/rows", "rows").rows("rows")
    seen = np.zeros(total, dtype=np.int8)
    conflicts, heaviest = 0, {2: [0.0, 0], 4: [0.0, 0]}
    for path in epoch.files("rows"):
        with open_parquet(path) as file:
            table = file.read(["row", "step", "slot", "query_id", "positive_id", "anchor", "positive"])
        np.add.at(seen, table["row"].to_numpy(), 1)
        step = table["step"].to_numpy()
        for name in ("positive_id", "query_id"):
            conflicts += len(step) - len(np.unique(np.stack([step, table[name].to_numpy()]), axis=1).T)
        tokens = sum(pa.compute.list_value_length(table[name]).to_numpy() for name in ("anchor", "positive"))
        for ranks, sum_and_count in heaviest.items():
            sums = np.bincount(step * ranks + table["slot"].to_numpy() % ranks, tokens, (step.max() + 1) * ranks)
            share = sums.reshape(-1, ranks).max(axis=1) / sums.reshape(-1, ranks).mean(axis=1)
            sum_and_count[0], sum_and_count[1] = sum_and_count[0] + float(share.sum()), sum_and_count[1] + len(share)
    left = epoch.read("left_out")["row"].to_numpy() if epoch.has("left_out") else np.zeros(0, np.int64)
    np.add.at(seen, left, 1)
    means = {f"heaviest_{ranks}": total_share / steps for ranks, (total_share, steps) in heaviest.items()}
    return {"conflicts": conflicts, "accounted": float((seen == 1).mean()), **means}


def batches(job: dict[str, Any]) -> dict[str, float]:
    """Global batches of two ranks over the same rows, planted or of a real set: ours, or by the peer's sampler."""
    table, document, relevant = _real(job) if job["set"] else _synthetic(job["rows"])
    start, row_batches = time.perf_counter(), []
    if job["side"] == "ours":
        from training.data.epoch import EpochSettings
        from training.data.epoch_composer import compose_epoch
        from training.data.epoch_reader import EpochReader
        from training.data.rows_artifact import write_rows

        with tempfile.TemporaryDirectory() as folder:
            rows = write_rows(f"{folder}/rows", {}, {}, table)
            start = time.perf_counter()
            reader = EpochReader(compose_epoch(rows, EpochSettings(SIZE, SEED), 0, f"{folder}/epoch"), 0)
            row_batches = [reader.batch(reader.step_ref(step))["row"].to_numpy() for step in range(len(reader))]
    else:
        from datasets import Dataset
        from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

        texts = pairs(job["data"], job["set"], job["rows"]).select(["anchor", "positive"]) if job["set"] else None
        if texts is None:
            query = planted(0, job["rows"], job["rows"])[0]
            texts = pa.table(
                {"anchor": [f"question {q}" for q in query], "positive": [f"answer {d}" for d in document]}
            )
        sampler = NoDuplicatesBatchSampler(Dataset(texts), SIZE // 2, drop_last=True, seed=SEED)
        start = time.perf_counter()
        halves = list(sampler)
        row_batches = [np.array(first + second) for first, second in zip(halves[::2], halves[1::2], strict=False)]
    seconds = time.perf_counter() - start
    conflicts = sum(_conflicts(document[batch], [relevant[row] for row in batch]) for batch in row_batches)
    return {"rows_per_s": sum(map(len, row_batches)) / seconds, "conflicts": conflicts}


def _synthetic(count: int) -> tuple[Iterator["Piece"], Any, list[Any]]:
    chunks = [planted(first, min(CHUNK, count - first), count) for first in range(0, count, CHUNK)]
    _, document, relevant = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return synthetic_rows(count), document, [row[row >= 0] for row in relevant]


def _real(job: dict[str, Any]) -> tuple[Iterator["Piece"], Any, list[Any]]:
    from training.data.rows import rows_from
    from training.data.rows_artifact import tokenise_in_pieces

    rows = rows_from(pairs(job["data"], job["set"], job["rows"]), {})
    return (
        tokenise_in_pieces(rows, lambda texts, role: [[1] * min(128, 2 + len(text) // 5) for text in texts]),
        rows.positive_id,
        rows.relevant_id,
    )


def _conflicts(document: Any, relevant: list[Any]) -> int:
    """Rows of a batch that share it with a document of another row that is known to be right for them."""
    right = np.stack([np.isin(document, documents) for documents in relevant])
    np.fill_diagonal(right, False)
    return int(right.any(axis=1).sum())


def pairs(data: str, name: str, count: int) -> pa.Table:
    """Training pairs of a set as rows of a build, at most `count`."""
    text_pairs = read_text_pairs(data, name)
    anchors, positives = zip(*text_pairs[:: max(1, len(text_pairs) // count)][:count], strict=True)
    columns = {"anchor_id": anchors, "anchor": anchors, "positive_id": positives, "positive": positives}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def balance(job: dict[str, Any]) -> dict[str, float]:
    """Tokens of the heaviest rank of W against the mean, and padding, dealt by us or in order as a sampler does."""
    from pipeline.encoder.encoder import Encoder, EncoderConfig
    from training.data.epoch import EpochSettings
    from training.data.epoch_reader import EpochReader, InMemoryEpochs
    from training.data.rows import rows_from
    from training.data.tokenized import token_columns, token_counts

    encoder = Encoder.load(EncoderConfig(layers=1, max_length=128, dtype="float32"), "cpu")
    rows = rows_from(pairs(job["data"], job["set"], 6400), {})
    epochs = InMemoryEpochs(rows, encoder.tokenize, EpochSettings(SIZE, SEED))
    reader = EpochReader(epochs(0), 0)
    shares: dict[str, list[float]] = {}
    for step in range(len(reader) - 1):
        table = reader.batch(reader.step_ref(step))
        costs, slot = token_counts(table), table["slot"].to_numpy()
        order = np.argsort(np.random.default_rng(step).random(len(costs)))
        for ranks in (2, 4):
            for name, rank in (("dealt", slot % ranks), ("in_order", order % ranks)):
                sums = np.bincount(rank, costs)
                shares.setdefault(f"{name}_{ranks}", []).append(float(sums.max() / sums.mean()))
        columns = token_columns(table)
        lengths = [[len(text) for text in columns[name]] for name in ("query", "positive")]
        shares.setdefault("padding", []).append(encoder.padding_share([length for part in lengths for length in part]))
        shares.setdefault("padding_in_order", []).append(
            1 - sum(map(sum, lengths)) / sum(max(part) * len(part) for part in lengths)
        )
    means = {name: float(np.mean(values)) for name, values in shares.items()}
    worst = {
        f"worst_{name}_{ranks}".replace("_dealt", ""): max(shares[f"{name}_{ranks}"])
        for name in ("dealt", "in_order")
        for ranks in (2, 4)
    }
    return means | worst


def wait(job: dict[str, Any]) -> dict[str, float]:
    """Share of the steps of MiniLM that waits for a batch, and how long one takes to get ready."""
    from pipeline.encoder.encoder import Encoder, EncoderConfig
    from training.data.epoch_reader import prefetch
    from training.data.rows import rows_from
    from training.loop.step import LoopConfig, TrainStep
    from training.loop.throughput import ThroughputMeter
    from training.losses.infonce import InfoNCE

    encoder = Encoder.load(EncoderConfig(max_length=128, dtype="float32"), "cpu", to_train=True)
    settings = LoopConfig(batch_size=SIZE, validations=0, max_steps=job["steps"], dropout=0.0)
    loop = TrainStep(encoder, InfoNCE(), rows_from(pairs(job["data"], job["set"], 6400), {}), settings)
    ready = []
    for _, ref in loop.plan(0):
        start = time.perf_counter()
        loop.load_batch(ref)
        ready.append(time.perf_counter() - start)
    meter = ThroughputMeter(encoder)
    for step, ref, work in meter.timed(prefetch(loop.plan(0), loop.load_batch)):
        loop.step(work, step)
        meter.add(len(ref), work.inputs[0])
    return {"wait": meter.read()["wait"], "ready_ms": 1000 * float(np.median(ready))}


KINDS = {
    "synthetic": synthetic,
    "compose": compose,
    "check": check,
    "batches": batches,
    "balance": balance,
    "wait": wait,
}


def main() -> None:
    """Run one measurement."""
    job = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps(KINDS[job["kind"]](job)) + "\n")


if __name__ == "__main__":
    main()
