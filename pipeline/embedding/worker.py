"""The actors of the embedding job: each embeds shards of rows into committed files of vectors."""

import posixpath
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import ray_session, tasks
from pipeline.core.actor_pool import Pool, Worker, limit_threads, stream
from pipeline.core.progress import Progress, say
from pipeline.embedding.passage_rows import PassageRows
from pipeline.embedding.reuse import KEY, EarlierVectors, text_keys
from pipeline.encoder.encoder import Encoder, EncoderConfig, Role
from pipeline.encoder.passages import PassagesConfig
from pipeline.storage import shards
from pipeline.storage.files import filesystem, join
from pipeline.storage.shards import Shard
from pipeline.storage.vectors import Ranges, VectorFormat, formatted_table, int8_ranges, rows_with_text


@dataclass(frozen=True)
class EmbedTask:
    """What every actor of an embedding job needs to know."""

    encoder: EncoderConfig
    role: Role
    id_column: str
    text_column: str
    extra_columns: tuple[str, ...]
    folder: str
    formats: tuple[VectorFormat, ...]
    incremental: bool
    fast: bool  # whether there are enough texts to pay for compiling a faster runtime
    passages: PassagesConfig | None = None

    def load(self, threads: int) -> Encoder:
        """Load the encoder in an actor."""
        limit_threads(threads)
        encoder = Encoder.load(self.encoder)
        return encoder.use_runtime(threads) if self.fast else encoder

    def texts(self, shard: Shard) -> tuple[pa.Table, int]:
        """Read a shard: the table (id, text, extra columns) of rows with a text, and the number of unreadable rows."""
        names = dict.fromkeys([self.id_column, self.text_column, *self.extra_columns])
        rows = shards.read(shard, list(names))
        table = rows_with_text(rows, shard.path, self.id_column, self.text_column, self.extra_columns)
        return table, shard.rows - rows.num_rows


Committed = dict[str, dict[str, Any]]  # counts of the outputs that are whole, by name
FOOTERS_A_TASK = 256


def read_committed(folder: str, plan: Sequence[Shard]) -> Committed:
    """Counts of the outputs of a plan that are there and whole: one listing, and their footers read in tasks."""
    fs, root = filesystem(folder)
    files = fs.glob(join(root, "*.parquet")) if fs.exists(root) else []
    present = {posixpath.basename(file).removesuffix(".parquet") for file in files}
    names = [shard.name for shard in plan if shard.name in present]
    groups = [(folder, names[start : start + FOOTERS_A_TASK]) for start in range(0, len(names), FOOTERS_A_TASK)]
    counts: Committed = {}
    for part in tasks.results(_footers, groups):
        counts |= part
    return counts


def _footers(folder: str, names: list[str]) -> Committed:
    read = {name: shards.committed(folder, name) for name in names}
    return {name: counts for name, counts in read.items() if counts is not None}


def encode(
    plan: Sequence[Shard],
    task: EmbedTask,
    ranges: Ranges,
    stale: Sequence[str],
    pools: dict[str, Any],
    cut: str,
    committed: Committed,
) -> Committed:
    """Embed the shards that are not `committed` on a pool; returns the counts of all outputs.

    `stale` are files with vectors of earlier texts. The progress line repeats in a few words what is `cut` of texts.
    """
    missing = [shard for shard in plan if shard.name not in committed]
    if not missing:
        return committed
    total, remaining = sum(shard.rows for shard in plan), sum(shard.rows for shard in missing)
    if remaining < total:
        say(f"embed: resumes after {total - remaining:,} of {total:,} texts")
    earlier = tasks.put(EarlierVectors.read(stale)) if task.incremental and stale else None
    pool = Pool.plan(pools["num_actors"], len(missing), max_actors=pools["max_actors"], threads=pools["threads"])
    settings = {"task": task, "ranges": ranges, "earlier": [earlier], "threads": pool.threads}
    tokens = padded = 0
    with Progress("embed", total, "texts") as progress:
        progress.skip(total - remaining)
        for counts in stream([asdict(shard) for shard in missing], EmbedShard, settings, pool):
            committed[counts["name"]] = counts["footer"]
            tokens, padded = tokens + counts["tokens"], padded + counts["padded"]
            padding = 1 - tokens / padded if padded else 0.0
            pace = f"{tokens / progress.seconds:,.0f} tokens/s, {padding:.1%} padding"
            progress.add(counts["rows"], f"{pace}, {cut}")
    return committed


class EmbedShard(Worker):
    """Embeds shards, each into one committed file of vectors."""

    overlaps = True

    def __init__(self, task: EmbedTask, ranges: Ranges, earlier: list[Any], threads: int) -> None:
        self.task, self.ranges, self.encoder = task, ranges, task.load(threads)
        self.turn = threading.Lock()  # one shard computes while others are read, tokenised and written
        self.earlier: EarlierVectors | None = None if earlier[0] is None else tasks.get(earlier[0])

    def work(self, item: dict[str, Any]) -> dict[str, Any]:
        """Embed one shard and commit it; return its counts, and the tokens that were computed.

        A committed shard is skipped: Ray repeats a finished item when the node that holds its result is lost.
        """
        shard = Shard(**item)
        computed = {"tokens": 0, "padded": 0}
        if (footer := shards.committed(self.task.folder, shard.name)) is None:
            footer = self._embed(shard)
            computed = {name: footer[name] for name in computed}
        return {"name": shard.name, "rows": shard.rows, "footer": footer, **computed}

    def _embed(self, shard: Shard) -> dict[str, Any]:
        """Embed the rows of a shard and commit them; return the counts that were written."""
        rows, unreadable = self.task.texts(shard)
        facts = {"left_out": shard.rows - rows.num_rows, "unreadable": unreadable}
        facts |= {"dtype": self.encoder.identity["dtype"]}
        if self.task.passages:
            return self._commit_passages(shard, rows, facts, self.task.passages)
        texts = rows.column("text").to_pylist()
        table, counts = self._vectors(rows.column("id"), texts)
        for name in self.task.extra_columns:
            table = table.append_column(name, rows.column(name))
        footer = {"rows": table.num_rows, **facts, **counts}
        shards.commit(self.task.folder, shard.name, table, footer)
        return footer

    def _commit_passages(
        self, shard: Shard, rows: pa.Table, facts: dict[str, Any], passages: PassagesConfig
    ) -> dict[str, Any]:
        """Embed the passages of the documents of a shard and commit them as they come."""
        task, turn = self.task, self.turn
        passage_rows = PassageRows(
            self.encoder, passages, task.formats, self.ranges, self.earlier, task.extra_columns, task.incremental
        )
        facts = {**facts, "copied": 0}
        tables = passage_rows.tables(rows, turn)
        shards.commit_stream(task.folder, shard.name, tables, lambda: facts | passage_rows.counts)
        return facts | passage_rows.counts

    def _vectors(self, ids: pa.ChunkedArray, texts: list[str]) -> tuple[pa.Table, dict[str, int]]:
        """Return columns of vectors, with the texts' keys where `incremental`; vectors of earlier texts are copied."""
        if not self.task.incremental:
            return self._encoded(ids, texts)
        keys = text_keys(texts)
        positions = self.earlier.find(keys) if self.earlier else np.full(len(keys), -1)
        new = np.flatnonzero(positions < 0)
        table, counts = self._encoded(ids.take(pa.array(new)), [texts[row] for row in new])
        old = np.flatnonzero(positions >= 0)
        if self.earlier and len(old):
            names = table.column_names[1:]
            copied = self.earlier.take(positions[old], names).add_column(0, "id", ids.take(pa.array(old)))
            back = np.argsort(np.concatenate([new, old]), kind="stable")
            table = pa.concat_tables([table, copied.cast(table.schema)]).take(pa.array(back))
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


def calibrate(task: EmbedTask, plan: Sequence[Shard], rows: int) -> Ranges:
    """Measure the range of each dimension for int8, in a task, on texts of shards spread over the plan."""
    if not any(form.dtype == "int8" for form in task.formats) or not plan:
        return {}
    sample = [plan[index] for index in shards.spread(len(plan), shards.SAMPLED_SHARDS)]
    measured = tasks.submit(_ranges, task, sample, -(-rows // len(sample)), ray_session.cpus(), on_gpu=True)
    ranges: Ranges = tasks.get(measured)
    return ranges


def _ranges(task: EmbedTask, sample: list[Shard], rows: int, threads: int) -> Ranges:
    encoder = task.load(threads)
    texts = [text for shard in sample for text in task.texts(shard)[0].column("text").slice(0, rows).to_pylist()]
    if task.passages:
        return PassageRows(encoder, task.passages, task.formats, {}).int8_ranges(texts)
    return int8_ranges(encoder.encode(texts, task.role), task.formats, scaled=encoder.normalize)
