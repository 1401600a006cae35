"""Training rows of data larger than memory, tokenised once: staged by query, so that all rows of a query meet.

Each step is a set of tasks, one a block of a table or one a bucket of the step before; the rows are those that
`read_rows.load_rows` reads from the same tables. A bucket holds all rows of its queries, their judgments, and the
documents that have the text of a query.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.schema import TABLES
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.pair_classifier import PairClassifier, PairClassifierConfig
from pipeline.encoder.passages import PassageCutter
from pipeline.storage import artifact, shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.counts import Counts
from pipeline.storage.files import filesystem
from pipeline.storage.shards import Shard
from pipeline.storage.shuffle import Shuffle
from training.data.batching import Ints
from training.data.bulk_columns import (
    FACTS,
    NAMES,
    STAGED,
    add_teacher_scores,
    documents_by_query,
    sample_hashes,
    text_owners,
)
from training.data.epoch import RunTasks
from training.data.guide_vectors import load_guide as vectors_of
from training.data.passage_choice import PassageChoice, TrainPassages
from training.data.read_rows import READERS, Kind, as_triplets, source_shares
from training.data.rows import rows_from
from training.data.rows_artifact import row_notes, tokenise_piece, write_part
from training.data.tokenized import Tokenize

BLOCK_ROWS = 65_536
BUCKET_BYTES = 16 << 20  # compressed, about a fourth of the texts themselves
CLUSTERS = pa.schema([("doc_id", pa.string()), ("cluster_id", pa.string())])


@dataclass(frozen=True)
class Block:
    """Some rows of a stored table, or all rows of one that is computed from several."""

    kind: str  # of rows, or "qrels", "candidates"
    shard: Shard | None
    first: int = 0  # rows of the table before it


@dataclass(frozen=True)
class BulkRows:
    """The steps that make the rows; `starts` holds the number of the first row of each block, once all are counted."""

    kinds: list[Kind]
    data: Artifact
    negatives: Artifact | None
    encoder: EncoderConfig | PairClassifierConfig  # of what tokenises
    shuffle: Shuffle
    out: str
    max_negatives: int | None = None
    max_rows: int | None = None
    mix: dict[str, float] = field(default_factory=dict)
    temperature: float | None = None
    homogeneous_batches: bool = False
    guide: dict[str, Artifact] = field(default_factory=dict)
    passages: TrainPassages | None = None
    chooser: EncoderConfig | None = None  # the model that chooses passages
    starts: tuple[int, ...] = ()
    sample_limit: int | None = None  # the highest hash of a row that is in the sample of `max_rows`
    sources: dict[str, int] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> list[Block]:
        """Blocks of the tables of rows, in order; tasks get them with this object and open no file for them."""
        blocks = []
        for kind in self.kinds:
            artifact = self.negatives if kind == "mined" and self.negatives else self.data
            if kind == "judged":
                blocks.append(Block(kind, None))
                continue
            table = "triplets" if kind == "mined" else kind
            blocks += _cut(kind, artifact.files(table))
        return blocks

    @cached_property
    def fact_blocks(self) -> list[Block]:
        """Blocks of judgments, and of the scores that the miner computed for positives."""
        blocks = []
        if self.data.has("qrels"):
            blocks += _cut("qrels", self.data.files("qrels"))
        if "mined" in self.kinds and self.negatives and self.negatives.has("candidates"):
            blocks += _cut("candidates", self.negatives.files("candidates"))
        return blocks

    def count_rows(self, run: RunTasks) -> "BulkRows":
        """Count the rows of all blocks, for `starts` and `sources`, and find the limit of the sample of `max_rows`."""
        tallies = run("count", len(self.blocks), self.count)
        total = Counter[str]()
        for tally in tallies:
            total.update({name.removeprefix("source "): n for name, n in tally.counts.items() if name != "rows"})
        counts, limit = [tally.counts["rows"] for tally in tallies], None
        if self.max_rows is not None and sum(counts) > self.max_rows:
            hashes = [self._sample(block) for block in range(len(counts))]
            limit = int(np.sort(np.concatenate(hashes))[self.max_rows - 1])
            counts = [int((block_hashes <= limit).sum()) for block_hashes in hashes]
        starts = tuple(int(start) for start in np.cumsum([0, *counts])[:-1])
        return replace(self, starts=starts, sample_limit=limit, sources=dict(total))

    def count(self, block: int) -> Counts:
        """Count the training rows of a block, and stage its lowest hashes where a sample is taken."""
        table, tally = self._train(self.blocks[block]), Counts()
        tally.counts["rows"] = len(table)
        tally.counts.update(
            {f"source {entry['values']}": entry["counts"] for entry in pc.value_counts(table["source"]).to_pylist()}
        )
        if self.max_rows is not None:
            lowest = pa.table({"hash": np.sort(sample_hashes(table))[: self.max_rows].astype(np.uint64)})
            Shuffle(self.shuffle.path, 1).write(f"sample-{block:06d}", "all", lowest, by="hash")
        return tally

    def _sample(self, block: int) -> Ints:
        schema = pa.schema([("hash", pa.uint64())])
        table = Shuffle(self.shuffle.path, 1).read(f"sample-{block:06d}", 0, schema)
        hashes: Ints = table["hash"].to_numpy().astype(np.int64)
        return hashes

    def stage_rows(self, block: int) -> Counts:
        """Stage the training rows of a block by query, and the owners of their texts by text."""
        table = self._train(self.blocks[block])
        if self.sample_limit is not None:
            table = table.filter(pa.array(sample_hashes(table) <= self.sample_limit))
        table = table.append_column("row", pa.array(np.arange(len(table)) + self.starts[block]))
        for column in STAGED:
            if column.name not in table.column_names:
                table = table.append_column(column, pa.nulls(len(table), column.type))
        self.shuffle.write("rows", f"{block:06d}", table.select(STAGED.names).cast(STAGED), by="anchor_id")
        self.shuffle.write("names", f"{block:06d}", text_owners(table), by="text")
        return Counts()

    def stage_facts(self, block: int) -> Counts:
        """Stage the judgments or scores of a block by query."""
        source = self.fact_blocks[block]
        assert source.shard is not None
        if source.kind == "qrels":
            table = shards.read(source.shard, ["query_id", "doc_id", "relevance", "split"])
            table = table.filter(pc.and_(pc.greater(table["relevance"], 0), pc.equal(table["split"], "train")))
            columns = [table["query_id"], table["doc_id"], pa.nulls(len(table), pa.float32())]
        else:
            table = shards.read(source.shard, ["anchor_id", "positive_id", "positive_score"])
            columns = [table["anchor_id"], table["positive_id"], table["positive_score"]]
        anchor, doc, score = columns
        facts = pa.table([anchor, doc, pa.array(np.arange(len(table))), score], schema=FACTS)
        self.shuffle.write(source.kind, f"{block:06d}", facts, by="anchor_id")
        return Counts()

    def join_same_text(self, bucket: int) -> Counts:
        """Join queries with the documents that have the same text, and stage the pairs by query."""
        names = self.shuffle.read("names", bucket, NAMES)
        sides = names.filter(names["query"]), names.filter(pc.invert(names["query"]))
        queries, documents = (
            side.group_by(["text", "id"]).aggregate([("rank", "min")]).rename_columns(["text", name, rank])
            for side, name, rank in zip(sides, ("anchor_id", "doc_id"), ("first", "rank"), strict=True)
        )
        pairs = queries.join(documents, "text", join_type="inner").select(["anchor_id", "doc_id", "rank"])
        pairs = pairs.append_column("score", pa.nulls(len(pairs), pa.float32())).cast(FACTS)
        self.shuffle.write("same_text", f"{bucket:06d}", pairs.sort_by([("rank", "ascending")]), by="anchor_id")
        return Counts()

    def write_bucket(self, bucket: int) -> Counts:
        """Add the relevant documents of their queries to the rows of a bucket, tokenise and write them."""
        table = self.shuffle.read("rows", bucket, STAGED).sort_by("row")
        if not len(table):
            return Counts()
        same_text = documents_by_query(self.shuffle.read("same_text", bucket, FACTS).sort_by("rank"))
        relevant = documents_by_query(self.shuffle.read("qrels", bucket, FACTS))
        near = self._clusters(table, [*relevant.values(), *same_text.values()])
        shares = source_shares(self.sources, self.mix, self.temperature)
        table = add_teacher_scores(table, self.shuffle.read("candidates", bucket, FACTS))
        rows = rows_from(table, relevant, self.max_negatives, near, shares, same_text)
        rows = replace(rows, stream=rows.source) if self.homogeneous_batches else rows
        if self.guide:
            rows = replace(rows, guide=vectors_of(self.guide, rows.query_id, rows.positive_id, rows.negative_id))
        if isinstance(self.encoder, PairClassifierConfig):
            tokenize: Tokenize = _pair_classifier(self.encoder.model_dump_json()).tokenize
        else:
            encoder = _encoder(self.encoder.model_dump_json())
            tokenize = encoder.tokenize
            if self.passages and self.chooser:
                chooser = _encoder(self.chooser.model_dump_json())
                rows = PassageChoice(PassageCutter(encoder, self.passages), chooser)(rows)
        return write_part(self.out, bucket, tokenise_piece(rows, tokenize, table["row"].to_numpy()))

    def steps(self) -> list[tuple[str, int, Callable[[int], Counts]]]:
        """Steps in order, each with its number of tasks; each needs all tasks of the one before."""
        buckets = self.shuffle.buckets
        return [
            ("read", len(self.blocks), self.stage_rows),
            ("facts", len(self.fact_blocks), self.stage_facts),
            ("clusters", 1, self.stage_clusters),
            ("same_text", buckets, self.join_same_text),
            ("write", buckets, self.write_bucket),
        ]

    def _train(self, block: Block) -> pa.Table:
        """Training rows of a block, under the names of triplets, with the table and row that each came from."""
        kind = next(name for name in self.kinds if name == block.kind)
        artifact = self.negatives if kind == "mined" and self.negatives else self.data
        if block.shard is None:
            table, first = READERS[kind](artifact), 0
        else:
            stored = "triplets" if kind == "mined" else kind
            first = block.first
            table = as_triplets(kind, shards.read(block.shard, TABLES[stored].names), artifact)
        table = table.append_column("table", pa.array([kind] * len(table), pa.string()))
        table = table.append_column("table_row", pa.array(np.arange(len(table)) + first))
        return table.filter(pc.equal(table["split"], "train"))

    def stage_clusters(self, _: int) -> Counts:
        """Stage the near-duplicate clusters of documents where every bucket can look them up."""
        tables = [CLUSTERS.empty_table()]
        if self.data.has("corpus"):
            for table in shards.read_batches(self.data.files("corpus"), CLUSTERS.names):
                tables.append(table.filter(pc.is_valid(table["cluster_id"])).cast(CLUSTERS))
        Shuffle(self.shuffle.path, 1).write("clusters", "all", pa.concat_tables(tables), by="doc_id")
        return Counts()

    def _clusters(self, table: pa.Table, relevant: list[list[str]]) -> dict[str, str]:
        """Clusters of the documents of a bucket and of those that are relevant to its queries."""
        clusters = Shuffle(self.shuffle.path, 1).read("clusters", 0, CLUSTERS)
        negatives = pc.list_flatten(table["negatives"])
        negative_ids = [chunk.field("doc_id") for chunk in negatives.chunks]
        others = pa.array([doc for docs in relevant for doc in docs], pa.string())
        documents = pa.chunked_array([*table["positive_id"].chunks, *negative_ids, others])
        selected = clusters.filter(pc.is_in(clusters["doc_id"], documents))
        return dict(zip(selected["doc_id"].to_pylist(), selected["cluster_id"].to_pylist(), strict=True))


def _cut(kind: str, files: list[str]) -> list[Block]:
    """Cut the files of a table into blocks of at most `BLOCK_ROWS` rows."""
    plan = shards.plan(files, BLOCK_ROWS, "")
    firsts = accumulate((shard.rows for shard in plan), initial=0)
    return [Block(kind, shard, first) for shard, first in zip(plan, firsts, strict=False)]


@cache
def _encoder(config: str) -> Encoder:
    """An encoder of this process: the one that tokenises, or the one that chooses passages."""
    return Encoder.load(EncoderConfig.model_validate_json(config), "cpu")


@cache
def _pair_classifier(config: str) -> PairClassifier:
    """A reranker of this process, which tokenises."""
    return PairClassifier.load(PairClassifierConfig.model_validate_json(config))


def count_buckets(bulk: BulkRows) -> int:
    """Number of buckets in which rows are staged: it follows from the size of the files alone, on any machine."""
    paths = {block.shard.path for block in bulk.blocks if block.shard}
    size = float(sum(filesystem(path)[0].size(filesystem(path)[1]) for path in paths))
    return max(1, math.ceil(size / BUCKET_BYTES))


def write_bulk_rows(
    settings: Mapping[str, Any], inputs: Mapping[str, str], bulk: BulkRows, spread: RunTasks
) -> Artifact:
    """Write the rows of data larger than memory as an artifact, or return it where it is already there."""
    draft = artifact.begin(bulk.out, "rows", dict(settings), inputs, overwrite=True, resume=True, exclusive=False)
    if isinstance(draft, Artifact):
        return draft
    bulk = bulk.count_rows(spread)
    for name, count, task in bulk.steps():
        tallies = spread(name, count, task)
    fs, staging = filesystem(bulk.shuffle.path)
    fs.rm(staging, recursive=True)
    return draft.finish(["rows", "relevant"], **row_notes(tallies))
