"""What each task of a build does: read one block, or one bucket of what the step before left.

Ids, texts, judgments by query, judgments by document, queries with all they need, products by category: every step is
a pure function of `dedup`, `pairs` or `triplets` between reading and writing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.artifact import Draft
from pipeline.build.config import BuildConfig
from pipeline.dedup import entries, kept_only, merge_texts, unique_ids, unique_labelled
from pipeline.exchange import Exchange
from pipeline.pairs import (
    ASKED,
    MATCHED,
    body_pairs,
    join_documents,
    join_queries,
    judge,
    positives,
    tagged,
    title_pairs,
)
from pipeline.read import Limits, stage
from pipeline.schema import TABLES
from pipeline.sources.record import SCHEMAS, Block
from pipeline.splits import SplitConfig
from pipeline.tally import Tally
from pipeline.text import key
from pipeline.triplets import MEMBERS, catalogue, draw, judged_triplets

_NOUNS = {"documents": "document", "queries": "query"}


@dataclass(frozen=True)
class Steps:
    """What each task of the job does; every step reads one bucket and stages or writes what follows from it."""

    config: BuildConfig
    draft: Draft
    blocks: list[Block]
    exchange: Exchange

    def read(self, index: int) -> Tally:
        """Stage the records of one block."""
        block = self.blocks[index]
        limits = Limits(self.config.min_chars, self.config.max_chars, self.config.cleaning)
        return stage(self.config.sources[block.source], block, limits, self.exchange, f"{index:06d}")

    def ids(self, bucket: int) -> Tally:
        """Keep one row an id, and go on by text."""
        tally = Tally()
        for kind, noun in _NOUNS.items():
            rows = unique_ids(self.exchange.read(kind, bucket, SCHEMAS[kind]), noun, tally)
            self.exchange.write(f"unique_{kind}", _part(bucket), rows, by="key")
        rows = unique_labelled(self.exchange.read("labelled", bucket, SCHEMAS["labelled"]), tally)
        self._write("labelled", _labelled(rows, self.config.split), bucket, tally)
        return tally

    def texts(self, bucket: int) -> Tally:
        """Keep one id a text, and go on by id."""
        tally = Tally()
        for kind, noun in _NOUNS.items():
            rows = merge_texts(self.exchange.read(f"unique_{kind}", bucket, SCHEMAS[kind]), noun, tally)
            self.exchange.write(f"entries_{kind}", _part(bucket), rows, by="id")
        return tally

    def queries(self, bucket: int) -> Tally:
        """Join judgments with queries."""
        tally = Tally()
        judgments = self.exchange.read("judgments", bucket, SCHEMAS["judgments"])
        joined = join_queries(judgments, self._entries("queries", bucket), tally)
        self.exchange.write("asked", _part(bucket), joined, by="doc_id")
        return tally

    def documents(self, bucket: int) -> Tally:
        """Join judgments with documents; write the corpus, and stage the catalogue's products."""
        tally, config = Tally(), self.config
        documents, asked = self._entries("documents", bucket), self.exchange.read("asked", bucket, ASKED)
        grade = asked["relevance"].to_numpy()
        need_text = grade >= config.pairs.min_relevance
        if config.triplets.judged:
            need_text |= grade <= 0
        matched = join_documents(asked, documents, need_text, tally)
        self.exchange.write("matched", _part(bucket), matched, by="query_id")
        kept = tagged(kept_only(documents), asked)
        self._write("corpus", _corpus(kept), bucket, tally)
        if config.pairs.title_description:
            self._write("pairs", title_pairs(kept, config.split), f"title-{bucket:05d}", tally)
        if config.triplets.negatives:
            members, pool = draw(kept, config.triplets, config.split)
            self.exchange.write("members", _part(bucket), members, by="parent")
            self._pool.write("pool", _part(bucket), pool, by="parent")
        return tally

    def judgments(self, bucket: int) -> Tally:
        """Write queries, qrels, pairs and judged triplets."""
        tally, config = Tally(), self.config
        matched = self.exchange.read("matched", bucket, MATCHED)
        unjudged = {source.label: source.unjudged for source in config.sources}
        queries = kept_only(self._entries("queries", bucket))
        judged = judge(queries, matched, config.split, unjudged, tally)
        pairs = positives(judged, config.pairs, tally)
        self._write("queries", judged.queries.select(TABLES["queries"].names), bucket, tally)
        self._write("qrels", judged.judgments.select(TABLES["qrels"].names), bucket, tally)
        self._write("pairs", pairs, bucket, tally)
        if config.pairs.title_body:
            self._write("pairs", body_pairs(judged, pairs), f"body-{bucket:05d}", tally)
        if config.triplets.judged:
            triplets = judged_triplets(pairs, judged.judgments, config.triplets)
            self._write("triplets", triplets, f"judged-{bucket:05d}", tally)
        return tally

    def catalogue(self, bucket: int) -> Tally:
        """Write the triplets of the catalogue's tree."""
        tally = Tally()
        members, pool = self.exchange.read("members", bucket, MEMBERS), self._pool.read("pool", 0, MEMBERS)
        self._write("triplets", catalogue(members, pool, self.config.triplets, tally), bucket, tally)
        return tally

    def join(self, bucket: int) -> Tally:
        """All steps after reading, one after the other: right when there is one bucket."""
        total = Tally()
        for step in self.after_reading():
            total.add(step(bucket))
        return total

    def after_reading(self) -> list[Callable[[int], Tally]]:
        """Steps in order; each needs all buckets of the one before."""
        return [self.ids, self.texts, self.queries, self.documents, self.judgments, self.catalogue]

    @property
    def _pool(self) -> Exchange:
        return Exchange(self.exchange.path, 1)

    def _entries(self, kind: str, bucket: int) -> pa.Table:
        return self.exchange.read(f"entries_{kind}", bucket, entries(SCHEMAS[kind])).combine_chunks()

    def _write(self, table: str, rows: pa.Table, part: int | str, tally: Tally) -> None:
        if rows.num_rows == 0:
            return
        self.draft.write(table, rows, part)
        tally.counts[f"table {table}"] += rows.num_rows
        if "split" in rows.column_names:
            tally.counts.update(f"split {table} {split}" for split in rows["split"].to_pylist())


def _part(bucket: int) -> str:
    return f"{bucket:05d}"


def _corpus(kept: pa.Table) -> pa.Table:
    """Rows of table `corpus`; near-duplicate clusters are another step's."""
    none = pa.nulls(kept.num_rows, pa.string())
    columns = {name: kept[name] for name in ("title", "text", "category", "tags", "source")}
    return pa.table({"doc_id": kept["id"], **columns, "cluster_id": none}, schema=TABLES["corpus"])


def _labelled(rows: pa.Table, splits: SplitConfig) -> pa.Table:
    """Rows of table `labelled`; the ids follow from the texts, the split from the left one where nothing forces it."""
    ids = {side: [f"l-{key(text).hex()[:16]}" for text in rows[side].to_pylist()] for side in ("left", "right")}
    split = [s or splits.assign(left) for s, left in zip(rows["split"].to_pylist(), ids["left"], strict=True)]
    columns = {name: rows[name] for name in ("left", "right", "score", "source")}
    return pa.table({"left_id": ids["left"], "right_id": ids["right"], "split": split, **columns}).select(
        TABLES["labelled"].names
    )
