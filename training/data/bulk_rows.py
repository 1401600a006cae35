"""Training rows of data larger than memory, tokenised once: staged by query, so that a query's positives meet.

Each step is a task that sees one block of a table or one bucket of what the step before left, and gives the rows that
`rows.load` gives of the same tables: a bucket holds every row of its queries, what was judged for them, and the
documents that have a query's own text.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.schema import TABLES
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.storage import artifact, shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.counts import Counts
from pipeline.storage.files import filesystem, open_parquet
from pipeline.storage.shards import Shard
from pipeline.storage.shuffle import Shuffle
from training.data.batching import Ints
from training.data.bulk_columns import FACTS, NAMES, STAGED, called, keyed, listed, scored
from training.data.epoch import Spread
from training.data.guide_vectors import load as vectors_of
from training.data.read_rows import READERS, Kind, mixed, shaped
from training.data.rows import rows_from
from training.data.rows_artifact import notes, write
from training.data.tokenized import tokenised

BLOCK_ROWS = 65_536
BUCKET_BYTES = 16 << 20  # of files, which hold texts at a fourth of their size
CLUSTERS = pa.schema([("doc_id", pa.string()), ("cluster_id", pa.string())])


@dataclass(frozen=True)
class Block:
    """Some rows of a table, or all of one that is made of several."""

    kind: str  # of rows, or "qrels", "candidates"
    shard: Shard | None


@dataclass(frozen=True)
class Bulk:
    """The steps; `starts` are the numbers of the first row of each block, known once all are counted."""

    kinds: list[Kind]
    data: Artifact
    negatives: Artifact | None
    encoder: EncoderConfig
    exchange: Shuffle
    out: str
    most: int | None = None  # negatives a row
    max_rows: int | None = None
    mix: dict[str, float] = field(default_factory=dict)
    temperature: float | None = None
    homogeneous_batches: bool = False
    guide: dict[str, Artifact] = field(default_factory=dict)
    starts: tuple[int, ...] = ()
    limit: int | None = None  # the highest hash of a row that is in the sample of `max_rows`
    sources: dict[str, int] = field(default_factory=dict)

    @property
    def blocks(self) -> list[Block]:
        """Blocks of the tables of rows, in order."""
        found = []
        for kind in self.kinds:
            held = self.negatives if kind == "mined" and self.negatives else self.data
            if kind == "judged":
                found.append(Block(kind, None))
                continue
            table = "triplets" if kind == "mined" else kind
            found += [Block(kind, one) for one in shards.plan(held.files(table), BLOCK_ROWS, "")]
        return found

    @property
    def facts(self) -> list[Block]:
        """Blocks of what is known beside the rows: judgments, and the miner's scores of positives."""
        found = []
        if self.data.has("qrels"):
            found += [Block("qrels", one) for one in shards.plan(self.data.files("qrels"), BLOCK_ROWS, "")]
        if "mined" in self.kinds and self.negatives and self.negatives.has("candidates"):
            files = self.negatives.files("candidates")
            found += [Block("candidates", one) for one in shards.plan(files, BLOCK_ROWS, "")]
        return found

    def counted(self, run: Spread) -> "Bulk":
        """Count the rows of all blocks, so that each knows its first row's number; choose the sample where asked."""
        tallies = run("count", len(self.blocks), self.count)
        total = Counter[str]()
        for tally in tallies:
            total.update({name.removeprefix("source "): n for name, n in tally.counts.items() if name != "rows"})
        counts, limit = [tally.counts["rows"] for tally in tallies], None
        if self.max_rows is not None and sum(counts) > self.max_rows:
            hashes = [self._sample(block) for block in range(len(counts))]
            limit = int(np.sort(np.concatenate(hashes))[self.max_rows - 1])
            counts = [int((one <= limit).sum()) for one in hashes]
        starts = tuple(int(start) for start in np.cumsum([0, *counts])[:-1])
        return replace(self, starts=starts, limit=limit, sources=dict(total))

    def count(self, block: int) -> Counts:
        """Count the training rows of a block, and keep the lowest hashes where a sample is wanted."""
        table, tally = self._train(self.blocks[block]), Counts()
        tally.counts["rows"] = len(table)
        tally.counts.update(
            {f"source {one['values']}": one["counts"] for one in pc.value_counts(table["source"]).to_pylist()}
        )
        if self.max_rows is not None:
            lowest = pa.table({"hash": np.sort(keyed(table))[: self.max_rows].astype(np.uint64)})
            Shuffle(self.exchange.path, 1).write(f"sample-{block:06d}", "all", lowest, by="hash")
        return tally

    def _sample(self, block: int) -> Ints:
        schema = pa.schema([("hash", pa.uint64())])
        table = Shuffle(self.exchange.path, 1).read(f"sample-{block:06d}", 0, schema)
        hashes: Ints = table["hash"].to_numpy().astype(np.int64)
        return hashes

    def read(self, block: int) -> Counts:
        """Stage the training rows of a block by query, and the names of their texts by text."""
        table = self._train(self.blocks[block])
        if self.limit is not None:
            table = table.filter(pa.array(keyed(table) <= self.limit))
        table = table.append_column("row", pa.array(np.arange(len(table)) + self.starts[block]))
        for one in STAGED:
            if one.name not in table.column_names:
                table = table.append_column(one, pa.nulls(len(table), one.type))
        self.exchange.write("rows", f"{block:06d}", table.select(STAGED.names).cast(STAGED), by="anchor_id")
        self.exchange.write("names", f"{block:06d}", called(table), by="text")
        return Counts()

    def fact(self, block: int) -> Counts:
        """Stage judgments and scores by query."""
        one = self.facts[block]
        assert one.shard is not None
        if one.kind == "qrels":
            table = shards.read(one.shard, ["query_id", "doc_id", "relevance", "split"])
            table = table.filter(pc.and_(pc.greater(table["relevance"], 0), pc.equal(table["split"], "train")))
            columns = [table["query_id"], table["doc_id"], pa.nulls(len(table), pa.float32())]
        else:
            table = shards.read(one.shard, ["anchor_id", "positive_id", "positive_score"])
            columns = [table["anchor_id"], table["positive_id"], table["positive_score"]]
        anchor, doc, score = columns
        found = pa.table([anchor, doc, pa.array(np.arange(len(table))), score], schema=FACTS)
        self.exchange.write(one.kind, f"{block:06d}", found, by="anchor_id")
        return Counts()

    def own(self, bucket: int) -> Counts:
        """Tie queries to the documents that have their own text, and go on by query."""
        names = self.exchange.read("names", bucket, NAMES)
        sides = names.filter(names["query"]), names.filter(pc.invert(names["query"]))
        queries, documents = (
            side.group_by(["text", "id"]).aggregate([("rank", "min")]).rename_columns(["text", name, rank])
            for side, name, rank in zip(sides, ("anchor_id", "doc_id"), ("first", "rank"), strict=True)
        )
        found = queries.join(documents, "text", join_type="inner").select(["anchor_id", "doc_id", "rank"])
        found = found.append_column("score", pa.nulls(len(found), pa.float32())).cast(FACTS)
        self.exchange.write("own", f"{bucket:06d}", found.sort_by([("rank", "ascending")]), by="anchor_id")
        return Counts()

    def finish(self, bucket: int) -> Counts:
        """Give the rows of a bucket what is known of their queries, tokenise and write them."""
        table = self.exchange.read("rows", bucket, STAGED).sort_by("row")
        if not len(table):
            return Counts()
        own = listed(self.exchange.read("own", bucket, FACTS).sort_by("rank"))
        known = listed(self.exchange.read("qrels", bucket, FACTS))
        near = self._clusters(table, [*known.values(), *own.values()])
        shares = mixed(self.sources, self.mix, self.temperature)
        table = scored(table, self.exchange.read("candidates", bucket, FACTS))
        rows = rows_from(table, known, self.most, near, shares, own)
        rows = replace(rows, stream=rows.source) if self.homogeneous_batches else rows
        if self.guide:
            rows = replace(rows, guide=vectors_of(self.guide, rows.query_id, rows.positive_id, rows.negative_id))
        encoder = _loaded(self.encoder.model_dump_json())
        return write(self.out, bucket, tokenised(rows, encoder.tokenize, table["row"].to_numpy()))

    def steps(self) -> list[tuple[str, int, Callable[[int], Counts]]]:
        """Steps in order, each with its number of tasks; every one needs all of the one before."""
        buckets = self.exchange.buckets
        return [
            ("read", len(self.blocks), self.read),
            ("facts", len(self.facts), self.fact),
            ("clusters", 1, self.cluster),
            ("own", buckets, self.own),
            ("finish", buckets, self.finish),
        ]

    def _train(self, block: Block) -> pa.Table:
        """Training rows of a block, under the names of triplets, with the place of each."""
        kind = next(one for one in self.kinds if one == block.kind)
        held = self.negatives if kind == "mined" and self.negatives else self.data
        if block.shard is None:
            table, first = READERS[kind](held), 0
        else:
            stored = "triplets" if kind == "mined" else kind
            first = block.shard.start + _before(held.files(stored), block.shard.path)
            table = shaped(kind, shards.read(block.shard, TABLES[stored].names), held)
        table = table.append_column("table", pa.array([kind] * len(table), pa.string()))
        table = table.append_column("at", pa.array(np.arange(len(table)) + first))
        return table.filter(pc.equal(table["split"], "train"))

    def cluster(self, _: int) -> Counts:
        """Keep the clusters of the documents that have one where every bucket can look them up."""
        found = [CLUSTERS.empty_table()]
        if self.data.has("corpus"):
            for table in shards.read_batches(self.data.files("corpus"), CLUSTERS.names):
                found.append(table.filter(pc.is_valid(table["cluster_id"])).cast(CLUSTERS))
        Shuffle(self.exchange.path, 1).write("clusters", "all", pa.concat_tables(found), by="doc_id")
        return Counts()

    def _clusters(self, table: pa.Table, known: list[list[str]]) -> dict[str, str]:
        """Clusters of the documents of a bucket, and of those known to its queries."""
        every = Shuffle(self.exchange.path, 1).read("clusters", 0, CLUSTERS)
        negatives = pc.list_flatten(table["negatives"])
        given = [one.field("doc_id") for one in negatives.chunks]
        others = pa.array([doc for docs in known for doc in docs], pa.string())
        wanted = pa.chunked_array([*table["positive_id"].chunks, *given, others])
        found = every.filter(pc.is_in(every["doc_id"], wanted))
        return dict(zip(found["doc_id"].to_pylist(), found["cluster_id"].to_pylist(), strict=True))


def _before(paths: list[str], path: str) -> int:
    """Rows of the files before one."""
    return sum(_rows(one) for one in paths[: paths.index(path)])


@cache
def _rows(path: str) -> int:
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


@cache
def _loaded(config: str) -> Encoder:
    """The encoder of a process, for its tokens alone."""
    return Encoder.load(EncoderConfig.model_validate_json(config), "cpu")


def buckets_for(bulk: Bulk) -> int:
    """Buckets that the rows are staged in: as many as follow from the files, on any machine."""
    paths = {block.shard.path for block in bulk.blocks if block.shard}
    size = float(sum(filesystem(path)[0].size(filesystem(path)[1]) for path in paths))
    return max(1, math.ceil(size / BUCKET_BYTES))


def write_bulk(settings: Mapping[str, Any], inputs: Mapping[str, str], bulk: Bulk, spread: Spread) -> Artifact:
    """Write the rows of data larger than memory as an artifact, or return it where it is already there."""
    draft = artifact.begin(bulk.out, "rows", dict(settings), inputs, overwrite=True, resume=True, exclusive=False)
    if isinstance(draft, Artifact):
        return draft
    bulk = bulk.counted(spread)
    for name, count, task in bulk.steps():
        tallies = spread(name, count, task)
    fs, staging = filesystem(bulk.exchange.path)
    fs.rm(staging, recursive=True)
    return draft.finish(["rows"], **notes(tallies))
