"""The actors of the embedding job: a shard of rows into one committed file of vectors, and how fast that goes."""

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import ray_session
from pipeline.core.actor_pool import Pool, Worker, limit_threads, stream
from pipeline.core.progress import Progress, say
from pipeline.embedding.reuse import KEY, Earlier, keys_of
from pipeline.encoder.encoder import Encoder, EncoderConfig, Role
from pipeline.storage import shards
from pipeline.storage.shards import Shard
from pipeline.storage.vectors import Ranges, VectorFormat, formatted_table, int8_ranges, rows_with_text


@dataclass(frozen=True)
class Task:
    """What every actor of a job is told."""

    encoder: EncoderConfig
    role: Role
    id_column: str
    text_column: str
    carried: tuple[str, ...]
    folder: str
    formats: tuple[VectorFormat, ...]
    incremental: bool
    fast: bool  # whether there are texts enough that making a runtime pays

    def load(self, threads: int) -> Encoder:
        """Load the encoder of an actor."""
        limit_threads(threads)
        encoder = Encoder.load(self.encoder)
        return encoder.use_runtime(threads) if self.fast else encoder

    def texts(self, shard: Shard) -> tuple[pa.Table, int]:
        """Table (id, text, carried columns) of a shard's rows that have a text, and the number of unreadable rows."""
        names = dict.fromkeys([self.id_column, self.text_column, *self.carried])
        rows = shards.read(shard, list(names))
        table = rows_with_text(rows, shard.path, self.id_column, self.text_column, self.carried)
        return table, shard.rows - rows.num_rows


def encode(plan: Sequence[Shard], task: Task, ranges: Ranges, stale: Sequence[str], pools: dict[str, Any]) -> None:
    """Have every shard that is not committed encoded by a pool; `stale` are files with vectors of earlier texts."""
    missing = [shard for shard in plan if shards.committed(task.folder, shard.name) is None]
    if not missing:
        return
    total, remaining = sum(shard.rows for shard in plan), sum(shard.rows for shard in missing)
    if remaining < total:
        say(f"embed: resumes after {total - remaining:,} of {total:,} texts")
    import ray

    ray_session.start()
    earlier = ray.put(Earlier.read(stale)) if task.incremental and stale else None
    pool = Pool.plan(pools["num_actors"], len(missing), most=pools["max_actors"], threads=pools["threads"])
    settings = {"task": task, "ranges": ranges, "earlier": [earlier], "threads": pool.threads}
    tokens = padded = 0
    with Progress("embed", total, "texts") as progress:
        progress.skip(total - remaining)
        for counts in stream([asdict(shard) for shard in missing], EncodeShard, settings, pool):
            tokens, padded = tokens + counts["tokens"], padded + counts["padded"]
            padding = 1 - tokens / padded if padded else 0.0
            progress.add(counts["rows"], f"{tokens / progress.seconds:,.0f} tokens/s, {padding:.1%} padding")


class EncodeShard(Worker):
    """Encodes shards: rows of an input into one committed file of vectors."""

    overlaps = True

    def __init__(self, task: Task, ranges: Ranges, earlier: list[Any], threads: int) -> None:
        self.task, self.ranges, self.encoder = task, ranges, task.load(threads)
        self.turn = threading.Lock()  # one shard computes while others are read, tokenised and written
        self.earlier: Earlier | None = None
        if earlier[0] is not None:
            import ray

            self.earlier = ray.get(earlier[0])

    def work(self, item: dict[str, Any]) -> dict[str, int]:
        """Encode one shard and commit it; return its rows, and the tokens that were computed.

        One that is committed is left: Ray does a finished item again when the node with its result is lost.
        """
        shard = Shard(**item)
        if shards.committed(self.task.folder, shard.name) is not None:
            return {"rows": shard.rows, "tokens": 0, "padded": 0}
        rows, unreadable = self.task.texts(shard)
        texts = rows.column("text").to_pylist()
        found, counts = self._vectors(rows.column("id"), texts)
        for name in self.task.carried:
            found = found.append_column(name, rows.column(name))
        held = {"left_out": shard.rows - rows.num_rows, "unreadable": unreadable, **counts}
        shards.commit(self.task.folder, shard.name, found, held | {"dtype": self.encoder.identity["dtype"]})
        return {"rows": shard.rows, "tokens": counts["tokens"], "padded": counts["padded"]}

    def _vectors(self, ids: pa.ChunkedArray, texts: list[str]) -> tuple[pa.Table, dict[str, int]]:
        """Columns of vectors, and of the texts' keys where they are kept; vectors of earlier texts are copied."""
        if not self.task.incremental:
            return self._encoded(ids, texts)
        keys = keys_of(texts)
        places = self.earlier.find(keys) if self.earlier else np.full(len(keys), -1)
        new = np.flatnonzero(places < 0)
        table, counts = self._encoded(ids.take(pa.array(new)), [texts[row] for row in new])
        old = np.flatnonzero(places >= 0)
        if self.earlier and len(old):
            names = table.column_names[1:]
            kept = self.earlier.take(places[old], names).add_column(0, "id", ids.take(pa.array(old)))
            back = np.argsort(np.concatenate([new, old]), kind="stable")
            table = pa.concat_tables([table, kept.cast(table.schema)]).take(pa.array(back))
        return table.append_column(KEY, pa.array(keys)), counts | {"copied": len(old)}

    def _encoded(self, ids: pa.ChunkedArray, texts: list[str]) -> tuple[pa.Table, dict[str, int]]:
        tokens = self.encoder.tokenize(texts, self.task.role)
        with self.turn:
            vectors = self.encoder.vectors(tokens, self.task.role)
        lengths = [len(row) for row in tokens]
        share = self.encoder.padding_share(lengths)
        counts = {"tokens": sum(lengths), "padded": round(sum(lengths) / (1 - share)), "copied": 0}
        table = formatted_table(ids, vectors, self.task.formats, self.ranges, scaled=self.encoder.normalize)
        return table, counts


def calibrate(task: Task, plan: Sequence[Shard], rows: int) -> Ranges:
    """Range of each dimension that int8 needs, from texts of shards spread over the whole plan, in a task of Ray."""
    if not any(form.dtype == "int8" for form in task.formats) or not plan:
        return {}
    import ray

    ray_session.start()
    sample = [plan[place] for place in np.unique(np.linspace(0, len(plan) - 1, 16).astype(int))]
    run = ray.remote(num_cpus=1, num_gpus=min(1, ray_session.gpus()))(_ranges)
    found: Ranges = ray.get(run.remote(task, sample, -(-rows // len(sample)), ray_session.cpus()))
    return found


def _ranges(task: Task, sample: list[Shard], rows: int, threads: int) -> Ranges:
    encoder = task.load(threads)
    texts = [text for shard in sample for text in task.texts(shard)[0].column("text").slice(0, rows).to_pylist()]
    return int8_ranges(encoder.encode(texts, task.role), task.formats, scaled=encoder.normalize)
