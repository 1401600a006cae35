"""What each task of a build does: read one block, or one bucket of what the step before left.

Ids, texts, judgments by query, judgments by document, queries with all they need, products by category: every step is
a pure function of `dedup`, `pairs` or `triplets` between reading and writing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.cluster_splits import UnitSteps
from pipeline.building.config import BuildConfig
from pipeline.building.decontamination_steps import SIDES, CheckSteps, publish
from pipeline.building.dedup import Entries, kept_only, unique_labelled
from pipeline.building.judgments import Judged, judge
from pipeline.building.near_duplicates import NearSteps
from pipeline.building.pairs import (
    ASKED,
    MATCHED,
    body_pairs,
    in_units,
    join_documents,
    join_queries,
    positives,
    tagged,
    title_pairs,
)
from pipeline.building.product_pairs import KEYED, keyed, partners, settled
from pipeline.building.read import Limits, stage
from pipeline.building.triplets import (
    DOCUMENTS,
    MEMBERS,
    PAIRS,
    SHARD_BYTES,
    catalogue,
    draw,
    judged_triplets,
    lookalikes,
)
from pipeline.core.schema import TABLES
from pipeline.sources.reading.record import SCHEMAS, Block
from pipeline.sources.reading.splits import SplitConfig
from pipeline.storage.artifact import Draft
from pipeline.storage.counts import Counts
from pipeline.storage.files import join
from pipeline.storage.shuffle import Shuffle
from pipeline.text.normalize import key

_FED_BY = {"lend": ("lent_documents", "lent_queries"), "catalogue": ("members",), "similar": ("keyed",)}


@dataclass(frozen=True)
class Steps:
    """What each task of the job does; every step reads one bucket and stages or writes what follows from it."""

    config: BuildConfig
    draft: Draft
    blocks: list[Block]
    exchange: Shuffle

    def read(self, index: int) -> Counts:
        """Stage the records of one block."""
        block = self.blocks[index]
        limits = Limits(self.config.min_chars, self.config.max_chars, self.config.cleaning)
        asked = block.source >= len(self.config.sources)
        exchange = self._checks.extra if asked else self.exchange
        return stage(self.config.every_source[block.source], block, limits, exchange, f"{index:06d}")

    def ids(self, bucket: int) -> Counts:
        """Keep one row an id; labelled pairs are done with."""
        tally = self._entries.ids(bucket)
        rows = unique_labelled(self.exchange.read("labelled", bucket, SCHEMAS["labelled"]), tally)
        labelled = _labelled(rows, self.config.split)
        self._checks.ask_labelled(labelled, _part(bucket))
        self._write("labelled", labelled, bucket, tally)
        return tally

    def queries(self, bucket: int) -> Counts:
        """Join judgments with queries."""
        tally = Counts()
        judgments = self.exchange.read("judgments", bucket, SCHEMAS["judgments"])
        joined = join_queries(judgments, self._entries.read("queries", bucket, ["tags"]), tally)
        self.exchange.write("asked", _part(bucket), joined, by="doc_id")
        return tally

    def documents(self, bucket: int) -> Counts:
        """Join judgments with documents; write the corpus, and stage the catalogue's products."""
        tally, config = Counts(), self.config
        documents = self._clustered(self._entries.read("documents", bucket, self._columns("documents")))
        asked = self.exchange.read("asked", bucket, ASKED)
        grade = asked["relevance"].to_numpy()
        need_text = grade >= config.pairs.min_relevance
        if config.triplets.judged:
            need_text |= grade <= 0
        matched = join_documents(asked, documents, need_text, config.pairs, tally)
        self.exchange.write("matched", _part(bucket), matched, by="query_id")
        kept = in_units(tagged(kept_only(documents), asked), self._units())
        self._write("corpus", _corpus(kept), bucket, tally)
        if config.pairs.title_description:
            self._write("pairs", title_pairs(kept, config.split), f"title-{bucket:05d}", tally)
        if config.pairs.similar.by:
            self.exchange.write("keyed", _part(bucket), keyed(kept, config.pairs.similar, config.split), by="key")
        if config.triplets.lexical:
            indexed = kept.rename_columns(["doc_id" if name == "id" else name for name in kept.column_names])
            self._lexical.write("lexical", _part(bucket), indexed.select(DOCUMENTS.names), by="doc_id")
        if config.triplets.negatives:
            members, pool = draw(kept, config.triplets, config.split)
            self.exchange.write("members", _part(bucket), members, by="parent")
            self._pool.write("pool", _part(bucket), pool, by="parent")
        return tally

    def judgments(self, bucket: int) -> Counts:
        """Write queries, qrels, pairs and judged triplets."""
        tally, config = Counts(), self.config
        matched = self.exchange.read("matched", bucket, MATCHED)
        unjudged = {source.label: source.unjudged for source in config.sources}
        queries = self._entries.kept("queries", bucket, self._columns("queries"))
        judged = judge(queries, matched, config.split, unjudged, self._units(), tally)
        pairs = positives(judged, config.pairs, tally)
        self._checks.ask_judged(judged, config.pairs.min_relevance, _part(bucket))
        self._write("queries", judged.queries.select(TABLES["queries"].names), bucket, tally)
        self._write("qrels", judged.judgments.select(TABLES["qrels"].names), bucket, tally)
        self._write("pairs", pairs, bucket, tally)
        if config.pairs.title_body:
            self._write("pairs", body_pairs(judged, pairs), f"body-{bucket:05d}", tally)
        if config.triplets.lexical:
            self._lexical.write("answered", _part(bucket), self._answered(pairs, judged), by="anchor_id")
        if config.triplets.judged:
            triplets = judged_triplets(pairs, judged.judgments, config.triplets)
            self._write("triplets", triplets, f"judged-{bucket:05d}", tally)
        return tally

    def catalogue(self, bucket: int) -> Counts:
        """Write the triplets of the catalogue's tree."""
        tally = Counts()
        members, pool = self.exchange.read("members", bucket, MEMBERS), self._pool.read("pool", 0, MEMBERS)
        self._write("triplets", catalogue(members, pool, self.config.triplets, tally), bucket, tally)
        return tally

    def similar(self, bucket: int) -> Counts:
        """Pair the products of a bucket of keys, and go on by anchor."""
        tally, config = Counts(), self.config.pairs.similar
        found = partners(self.exchange.read("keyed", bucket, KEYED), config, tally)
        self.exchange.write("similar", _part(bucket), found, by="anchor_id")
        return tally

    def settle(self, bucket: int) -> Counts:
        """Write the pairs of products that belong together, each once."""
        tally = Counts()
        found = settled(self.exchange.read("similar", bucket, TABLES["pairs"]), self.config.pairs.similar)
        self._write("pairs", found, f"similar-{bucket:05d}", tally)
        return tally

    def lookalikes(self, bucket: int) -> Counts:
        """Write triplets with lexical negatives; shards are dealt over the buckets."""
        tally, exchange = Counts(), self._lexical
        parts = [TABLES["triplets"].empty_table()]
        for shard in range(bucket, exchange.buckets, self.exchange.buckets):
            pairs, documents = exchange.read("answered", shard, PAIRS), exchange.read("lexical", shard, DOCUMENTS)
            assert self.config.triplets.lexical is not None
            parts.append(lookalikes(pairs, documents, self.config.triplets.lexical, tally))
        self._write("triplets", pa.concat_tables(parts), f"lexical-{bucket:05d}", tally)
        return tally

    def join(self, bucket: int) -> Counts:
        """All steps after reading, one after the other: right when there is one bucket."""
        total = Counts()
        for step in self.after_reading():
            total.add(step(bucket))
        return total

    def after_reading(self) -> list[Callable[[int], Counts]]:
        """Steps in order; each needs all buckets of the one before."""
        near, units, checks = self._near, self._by_cluster, self._checks
        return [
            self.ids,
            self._entries.texts,
            self._entries.lend,
            *(near.steps() if near else []),
            self.queries,
            *([units.of_documents, units.of_queries, units.settle] if units else []),
            self.documents,
            self.judgments,
            self.catalogue,
            *([self.similar, self.settle] if self.config.pairs.similar.by else []),
            *([self.lookalikes] if self.config.triplets.lexical else []),
            *([checks.extras, checks.check] if checks.on else []),
        ]

    def idle(self, step: Callable[[int], Counts]) -> bool:
        """Whether nothing was staged for a step, so that it need not run."""
        fed_by = _FED_BY.get(step.__name__)
        return fed_by is not None and not any(self.exchange.has(name) for name in fed_by)

    @property
    def _near(self) -> NearSteps | None:
        return NearSteps(self.config.near_duplicates, self.exchange) if self.config.near_duplicates else None

    @property
    def _by_cluster(self) -> UnitSteps | None:
        return UnitSteps(self._near, self.exchange) if self._near and self.config.split.by == "cluster" else None

    @property
    def _checks(self) -> CheckSteps:
        config = self.config.decontaminate
        labels = [source.label for source in config.extra]
        return CheckSteps(config, self.draft, self.exchange, labels, self.config.prompts)

    @property
    def _lexical(self) -> Shuffle:
        """Shards of the corpus, as many whatever the buckets."""
        config, size = self.config.triplets.lexical, sum(block.size for block in self.blocks)
        shards = (config.shards if config else None) or max(1, math.ceil(size / SHARD_BYTES))
        return Shuffle(join(self.exchange.path, "shards"), shards)

    def _answered(self, pairs: pa.Table, judged: Judged) -> pa.Table:
        """Training pairs with what is known to be right for their query: documents, and clusters of these."""
        right = judged.judgments.filter(pc.greater(judged.judgments["relevance"], 0))
        known: dict[str, list[str]] = {}
        clusters = self._near.cluster_of("documents", right["doc_id"]).to_pylist() if self._near else right["doc_id"]
        for query, *names in zip(right["query_id"].to_pylist(), right["doc_id"].to_pylist(), clusters, strict=True):
            known.setdefault(query, []).extend(str(name) for name in names if name is not None)
        pairs = pairs.filter(pc.equal(pairs["split"], "train"))
        return pairs.append_column(PAIRS.field("known"), [[known[name] for name in pairs["anchor_id"].to_pylist()]])

    def _units(self) -> dict[str, str]:
        return self._by_cluster.read() if self._by_cluster else {}

    def _clustered(self, documents: pa.Table) -> pa.Table:
        """Documents with their cluster, which is also their group where splits follow clusters and none is given."""
        none = pa.nulls(documents.num_rows, pa.string())
        clusters = self._near.cluster_of("documents", documents["kept"]) if self._near else none
        if self._by_cluster:
            at = documents.schema.get_field_index("group")
            documents = documents.set_column(at, "group", pc.coalesce(documents["group"].combine_chunks(), clusters))
        return documents.append_column("cluster", clusters)

    @property
    def _pool(self) -> Shuffle:
        return Shuffle(self.exchange.path, 1)

    def _columns(self, kind: str) -> list[str]:
        """Columns of entries that the tables are made of; long texts beside the text only where a table shows them."""
        config = self.config.pairs
        unused = {"key", "mention", *(() if config.title_description or config.title_body else ("body",))}
        return [name for name in SCHEMAS[kind].names if name not in unused]

    @property
    def _entries(self) -> Entries:
        return Entries(self.exchange)

    def _write(self, table: str, rows: pa.Table, part: int | str, tally: Counts) -> None:
        name = f"part-{part:05d}" if isinstance(part, int) else part
        if self._checks.on and table in SIDES:
            self._checks.hold(table, rows, name)
        else:
            publish(self.draft, table, rows, name, tally, self.config.prompts)


def _part(bucket: int) -> str:
    return f"{bucket:05d}"


def _corpus(kept: pa.Table) -> pa.Table:
    """Rows of table `corpus`."""
    columns = {name: kept[name] for name in ("title", "text", "category", "tags", "source")}
    return pa.table({"doc_id": kept["id"], **columns, "cluster_id": kept["cluster"]}, schema=TABLES["corpus"])


def _labelled(rows: pa.Table, splits: SplitConfig) -> pa.Table:
    """Rows of table `labelled`; the ids follow from the texts, the split from the left one where nothing forces it."""
    ids = {side: [f"l-{key(text).hex()[:16]}" for text in rows[side].to_pylist()] for side in ("left", "right")}
    split = [s or splits.assign(left) for s, left in zip(rows["split"].to_pylist(), ids["left"], strict=True)]
    columns = {name: rows[name] for name in ("left", "right", "score", "source")}
    named = {"left_id": ids["left"], "right_id": ids["right"], "split": split, **columns}
    return pa.table({name: named[name] for name in TABLES["labelled"].names}, schema=TABLES["labelled"])
