"""The tasks of a build: each reads one block, or one bucket of what the tasks before staged.

Blocks into records, ids, texts, judgments by query, judgments by document, queries with all they need, products by
category: every task is a pure function of another module of this room between reading and writing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.ambiguous_ids import AmbiguousId, count_ambiguous, has_ambiguous
from pipeline.building.answer_groups import AnswerGroupSteps
from pipeline.building.cluster_splits import ClusterSplitSteps
from pipeline.building.config import BuildConfig
from pipeline.building.decontamination_steps import TEXT_COLUMNS, DecontaminationSteps, write_table
from pipeline.building.dedup import DedupSteps, canonical_rows, unique_labelled
from pipeline.building.given_negatives import NEGATIVES_WITH_TEXT, given_triplets, join_canonical
from pipeline.building.judgments import JudgedQueries, resolve_judgments
from pipeline.building.merged_groups import MergedGroups
from pipeline.building.near_duplicates import NearDuplicateSteps
from pipeline.building.negatives import (
    KNOWN_POSITIVES,
    TRIPLET_CANDIDATES,
    allowed_triplets,
    document_identities,
    known_positives,
    titled_products,
)
from pipeline.building.pairs import (
    JUDGMENTS_WITH_DOCUMENT,
    JUDGMENTS_WITH_QUERY,
    body_pairs,
    join_documents,
    join_queries,
    positives,
    title_pairs,
    with_merged_groups,
    with_query_tags,
)
from pipeline.building.product_pairs import (
    PRODUCTS_BY_KEY,
    SIMILAR_PAIRS,
    pair_products,
    products_by_key,
    related_products,
    unique_pairs,
)
from pipeline.building.read import TextLimits, stage
from pipeline.building.triplets import (
    BM25_DOCUMENTS,
    MEMBERS,
    PAIRS_WITH_POSITIVES,
    SHARD_BYTES,
    catalogue_positives,
    catalogue_triplets,
    judged_triplets,
    lexical_triplets,
    sample_products,
    with_positives,
)
from pipeline.core.schema import TABLES
from pipeline.sources.reading.record import SCHEMAS, Block, split_order
from pipeline.sources.reading.splits import SplitConfig
from pipeline.storage.artifact import Draft
from pipeline.storage.counts import Counts
from pipeline.storage.files import join
from pipeline.storage.shuffle import Shuffle
from pipeline.text.normalize import key

_INPUTS = {
    "copy_to_aliases": ("aliases_documents", "aliases_queries"),
    "link_answers": ("answered",),
    "link_questions": ("answers",),
    "merge_questions": ("questions",),
    "catalogue_triplets": ("members",),
    "similar_pairs": ("products_by_key",),
    "allowed_triplets": ("triplet_candidates",),
}  # what is staged for tasks that many builds do not need


@dataclass(frozen=True)
class Steps:
    """All tasks of a build; each reads one bucket and stages or writes what follows from it."""

    config: BuildConfig
    draft: Draft
    blocks: list[Block]
    shuffle: Shuffle

    def read(self, index: int) -> Counts:
        """Stage the records of one block."""
        block = self.blocks[index]
        limits = TextLimits(self.config.min_chars, self.config.max_chars, self.config.cleaning)
        is_extra = block.source >= len(self.config.sources)
        shuffle = self._decontamination.extra if is_extra else self.shuffle
        return stage(self.config.all_sources[block.source], block, limits, shuffle, f"{index:06d}")

    def unique_ids(self, bucket: int) -> Counts:
        """Keep one record for each id, and write the labelled pairs."""
        try:
            tally = self._dedup.unique_ids(bucket)
        except AmbiguousId as problem:
            return count_ambiguous(problem, self.config.all_sources, self._locate)
        rows = unique_labelled(self.shuffle.read("labelled", bucket, SCHEMAS["labelled"]), tally)
        labelled = _labelled(rows, self.config.split)
        self._decontamination.add_labelled(labelled, _part(bucket))
        self._write("labelled", labelled, bucket, tally)
        return tally

    def join_queries(self, bucket: int) -> Counts:
        """Join judgments with queries."""
        tally = Counts()
        judgments = self.shuffle.read("judgments", bucket, SCHEMAS["judgments"])
        judgments = self._dedup.without_conflicting(judgments, "queries", bucket)
        joined = join_queries(judgments, self._dedup.read("queries", bucket, ["tags"]), tally)
        self.shuffle.write("judgments_with_query", _part(bucket), joined, by="doc_id")
        self.answer_groups.mark(joined, bucket)
        negatives = self.shuffle.read("negatives", bucket, SCHEMAS["negatives"])
        negatives = self._dedup.without_conflicting(negatives, "queries", bucket)
        if len(negatives):
            negatives, _ = join_canonical(negatives, self._dedup.read("queries", bucket, []), "query_id", tally)
            self.shuffle.write("negatives_with_query", _part(bucket), negatives, by="doc_id")
        return tally

    def join_documents(self, bucket: int) -> Counts:
        """Join judgments with documents, write the corpus, and stage the documents for pairs and triplets."""
        tally, config = Counts(), self.config
        documents = self._with_clusters(self._dedup.read("documents", bucket, self._columns("documents")))
        judgments = self.shuffle.read("judgments_with_query", bucket, JUDGMENTS_WITH_QUERY)
        judgments = self._dedup.without_conflicting(judgments, "documents", bucket)
        grade = judgments["relevance"].to_numpy()
        need_text = grade >= config.pairs.min_relevance
        if config.triplets.judged:
            need_text |= grade <= 0
        joined = join_documents(judgments, documents, need_text, config.pairs, tally)
        self.shuffle.write("judgments_with_document", _part(bucket), joined, by="query_id")
        negatives = self.shuffle.read("negatives_with_query", bucket, SCHEMAS["negatives"])
        negatives = self._dedup.without_conflicting(negatives, "documents", bucket)
        if len(negatives):
            negatives, rows = join_canonical(negatives, documents, "doc_id", tally)
            for name in ("text", "identities"):
                negatives = negatives.append_column(NEGATIVES_WITH_TEXT.field(name), documents[name].take(rows))
            self.shuffle.write("negatives_with_text", _part(bucket), negatives, by="query_id")
        corpus = with_merged_groups(with_query_tags(canonical_rows(documents), judgments), self._merged_groups)
        self._write("corpus", _corpus(corpus), bucket, tally)
        self._stage_documents(corpus, bucket, tally)
        return tally

    def _stage_documents(self, corpus: pa.Table, bucket: int, tally: Counts) -> None:
        """Write or stage what pairs and triplets without judgments need of the documents of a bucket."""
        config = self.config
        if config.pairs.title_description:
            self._write("pairs", title_pairs(corpus, config.split), f"title-{bucket:05d}", tally)
        if config.pairs.similar.by:
            products = products_by_key(corpus, config.pairs.similar, config.split)
            self.shuffle.write("products_by_key", _part(bucket), products, by="key")
        if config.triplets.lexical:
            documents = corpus.rename_columns(["doc_id" if name == "id" else name for name in corpus.column_names])
            self._bm25_shards.write(
                "bm25_documents", _part(bucket), documents.select(BM25_DOCUMENTS.names), by="doc_id"
            )
        if config.triplets.negatives:
            members, pool = sample_products(corpus, config.triplets, config.split)
            self.shuffle.write("members", _part(bucket), members, by="parent")
            self._single_bucket.write("pool", _part(bucket), pool, by="parent")
        if config.triplets.negatives or config.triplets.lexical:
            products = titled_products(corpus)
            self.shuffle.write("known_positives", f"titles-{bucket:05d}", products, by="anchor_key")

    def judgments(self, bucket: int) -> Counts:
        """Write queries, qrels, pairs and judged triplets."""
        tally, config = Counts(), self.config
        judgments = self.shuffle.read("judgments_with_document", bucket, JUDGMENTS_WITH_DOCUMENT)
        unjudged = {source.label: source.unjudged for source in config.sources}
        queries = self._dedup.read_canonical("queries", bucket, self._columns("queries"))
        judged_queries = resolve_judgments(queries, judgments, config.split, unjudged, self._merged_groups, tally)
        pairs = positives(judged_queries, config.pairs, tally)
        self._decontamination.add_queries(judged_queries, config.pairs.min_relevance, _part(bucket))
        self._write("queries", judged_queries.queries.select(TABLES["queries"].names), bucket, tally)
        self._write("qrels", judged_queries.judgments.select(TABLES["qrels"].names), bucket, tally)
        self._write("pairs", pairs, bucket, tally)
        if config.pairs.title_body:
            self._write("pairs", body_pairs(judged_queries, pairs), f"body-{bucket:05d}", tally)
        stated = self.shuffle.read("negatives_with_text", bucket, NEGATIVES_WITH_TEXT)
        self._stage_queries(pairs, judged_queries, given_triplets(pairs, stated, judgments, tally), bucket)
        return tally

    def _stage_queries(self, pairs: pa.Table, judged_queries: JudgedQueries, given: pa.Table, bucket: int) -> None:
        """Stage the triplets of a bucket of queries, or what they need, and the positives of these queries."""
        config = self.config.triplets
        triplets = given
        if config.judged:
            triplets = pa.concat_tables([given, judged_triplets(pairs, judged_queries.judgments, config)])
        self._stage_triplets(f"judged-{bucket:05d}", triplets)
        if config.lexical or triplets.num_rows or self.shuffle.has("members"):
            known = known_positives(judged_queries, self.config.pairs.min_relevance)
            self.shuffle.write("known_positives", f"judged-{bucket:05d}", known, by="anchor_key")
            if config.lexical:
                rows = with_positives(pairs.filter(pc.equal(pairs["split"], "train")), known)
                self._bm25_shards.write("bm25_pairs", _part(bucket), rows, by="anchor_id")

    def catalogue_triplets(self, bucket: int) -> Counts:
        """Stage the triplets of a catalogue's tree."""
        tally = Counts()
        members, pool = self.shuffle.read("members", bucket, MEMBERS), self._single_bucket.read("pool", 0, MEMBERS)
        triplets = catalogue_triplets(members, pool, self.config.triplets, tally)
        self._stage_triplets(f"catalogue-{bucket:05d}", triplets)
        positives = catalogue_positives(triplets)
        self.shuffle.write("known_positives", f"catalogue-{bucket:05d}", positives, by="anchor_key")
        return tally

    def similar_pairs(self, bucket: int) -> Counts:
        """Pair the products of a bucket of keys; pairs go on by anchor."""
        tally, config = Counts(), self.config.pairs.similar
        pairs = pair_products(self.shuffle.read("products_by_key", bucket, PRODUCTS_BY_KEY), config, tally)
        self.shuffle.write("similar_pairs", _part(bucket), pairs, by="anchor_id")
        return tally

    def unique_similar_pairs(self, bucket: int) -> Counts:
        """Write the pairs of related products, each once."""
        tally = Counts()
        pairs = unique_pairs(self.shuffle.read("similar_pairs", bucket, SIMILAR_PAIRS), self.config.pairs.similar)
        self._write("pairs", pairs.select(TABLES["pairs"].names), f"similar-{bucket:05d}", tally)
        self.shuffle.write("known_positives", f"similar-{bucket:05d}", related_products(pairs), by="anchor_key")
        return tally

    def lexical_triplets(self, bucket: int) -> Counts:
        """Stage triplets with lexical negatives; shards of the corpus are distributed over the buckets."""
        tally, shards = Counts(), self._bm25_shards
        parts = [TRIPLET_CANDIDATES.empty_table()]
        for shard in range(bucket, shards.buckets, self.shuffle.buckets):
            pairs = shards.read("bm25_pairs", shard, PAIRS_WITH_POSITIVES)
            documents = shards.read("bm25_documents", shard, BM25_DOCUMENTS)
            assert self.config.triplets.lexical is not None
            parts.append(lexical_triplets(pairs, documents, self.config.triplets.lexical, tally))
        self._stage_triplets(f"lexical-{bucket:05d}", pa.concat_tables(parts))
        return tally

    def allowed_triplets(self, bucket: int) -> Counts:
        """Write the triplets of a bucket of anchors, without negatives that are known to be positives."""
        tally = Counts()
        candidates = self.shuffle.read("triplet_candidates", bucket, TRIPLET_CANDIDATES)
        known = self.shuffle.read("known_positives", bucket, KNOWN_POSITIVES)
        self._write("triplets", allowed_triplets(candidates, known, tally), bucket, tally)
        return tally

    def all_after_reading(self, bucket: int) -> Counts:
        """Run all tasks after reading, one after the other: right when there is one bucket."""
        total = Counts()
        for step in self.after_reading():
            total.add(step(bucket))
            if has_ambiguous(total):
                break
        return total

    def after_reading(self) -> list[Callable[[int], Counts]]:
        """Return the tasks after reading in order; each needs all buckets of the one before."""
        near, splits, decontamination = self._near_duplicates, self._cluster_splits, self._decontamination
        return [
            self.unique_ids,
            self._dedup.unique_texts,
            self._dedup.copy_to_aliases,
            *(near.steps() if near else []),
            self.join_queries,
            *([splits.link_documents, splits.link_queries, splits.merge_groups] if splits else []),
            *self.answer_groups.steps(),
            self.join_documents,
            self.judgments,
            self.catalogue_triplets,
            *([self.similar_pairs, self.unique_similar_pairs] if self.config.pairs.similar.by else []),
            *([self.lexical_triplets] if self.config.triplets.lexical else []),
            self.allowed_triplets,
            *(decontamination.steps() if decontamination.enabled else []),
        ]

    def has_no_input(self, step: Callable[[int], Counts]) -> bool:
        """Whether nothing was staged for a task, so that it need not run."""
        inputs = _INPUTS.get(step.__name__)
        return inputs is not None and not any(self.shuffle.has(name) for name in inputs)

    @property
    def _near_duplicates(self) -> NearDuplicateSteps | None:
        return NearDuplicateSteps(self.config.near_duplicates, self.shuffle) if self.config.near_duplicates else None

    @property
    def _cluster_splits(self) -> ClusterSplitSteps | None:
        near = self._near_duplicates
        return ClusterSplitSteps(near, self.shuffle) if near and self.config.split.by == "cluster" else None

    @property
    def _decontamination(self) -> DecontaminationSteps:
        config = self.config.decontaminate
        labels = [source.label for source in config.extra]
        generated = tuple(source.label for source in self.config.sources if source.generated)
        return DecontaminationSteps(config, self.draft, self.shuffle, labels, self.config.prompts, generated)

    @property
    def _bm25_shards(self) -> Shuffle:
        """Shards of the corpus for BM25: their number does not depend on that of the buckets."""
        config, size = self.config.triplets.lexical, sum(block.size for block in self.blocks)
        shards = (config.shards if config else None) or max(1, math.ceil(size / SHARD_BYTES))
        return Shuffle(join(self.shuffle.path, "shards"), shards)

    @property
    def answer_groups(self) -> AnswerGroupSteps:
        """The tasks that link questions by their answers."""
        splits = self._cluster_splits
        return AnswerGroupSteps(self.config.split, self.shuffle, splits.merged_groups if splits else None)

    @property
    def _merged_groups(self) -> MergedGroups:
        return self.answer_groups.merged_groups()

    def _with_clusters(self, documents: pa.Table) -> pa.Table:
        """Documents with cluster and identities; where splits follow clusters, this is the group of one without."""
        near, none = self._near_duplicates, pa.nulls(documents.num_rows, pa.string())
        clusters = near.cluster_of("documents", documents["canonical_id"]) if near else none
        documents = documents.append_column("cluster", clusters).append_column("product_group", documents["group"])
        documents = documents.append_column("identities", document_identities(documents))
        if self._cluster_splits:
            index = documents.schema.get_field_index("group")
            documents = documents.set_column(index, "group", pc.coalesce(documents["group"].combine_chunks(), clusters))
        return documents

    @property
    def _single_bucket(self) -> Shuffle:
        return Shuffle(self.shuffle.path, 1)

    def _columns(self, kind: str) -> list[str]:
        """Columns of records that the tables need; a body without its title only where a table has it."""
        config = self.config.pairs
        unused = {"key", "mention", *(() if config.title_description or config.title_body else ("body",))}
        return [name for name in SCHEMAS[kind].names if name not in unused]

    def _locate(self, order: int) -> str:
        """Name the file and line of a row by its order among all rows."""
        source, file, offset = split_order(order)
        path = next(block.path for block in self.blocks if (block.source, block.file) == (source, file))
        return self.config.all_sources[source].locate(path, offset)

    @property
    def _dedup(self) -> DedupSteps:
        sources = enumerate(self.config.all_sources)
        return DedupSteps(self.shuffle, tuple(n for n, source in sources if source.repeated_ids == "first"))

    def _stage_triplets(self, part: str, triplets: pa.Table) -> None:
        self.shuffle.write("triplet_candidates", part, triplets, by="anchor_key")

    def _write(self, table: str, rows: pa.Table, part: int | str, tally: Counts) -> None:
        """Write rows of a table; those that are trained on wait until they can be checked for leaks."""
        name = f"part-{part:05d}" if isinstance(part, int) else part
        if self._decontamination.enabled and table in TEXT_COLUMNS:
            self._decontamination.defer(table, rows, name)
        else:
            write_table(self.draft, table, rows, name, tally, self.config.prompts)


def _part(bucket: int) -> str:
    return f"{bucket:05d}"


def _corpus(documents: pa.Table) -> pa.Table:
    """Rows of table `corpus`."""
    columns = {name: documents[name] for name in ("title", "text", "category", "tags", "source")}
    columns |= {"doc_id": documents["id"], "cluster_id": documents["cluster"]}
    product = pc.fill_null(documents["product"], False)
    columns["group_id"] = pc.if_else(product, pc.coalesce(documents["product_group"], documents["id"]), None)
    return pa.table({name: columns[name] for name in TABLES["corpus"].names}, schema=TABLES["corpus"])


def _labelled(rows: pa.Table, splits: SplitConfig) -> pa.Table:
    """Rows of table `labelled`: ids from the texts, the split from the left one's where the source forces none."""
    ids = {side: [f"l-{key(text).hex()[:16]}" for text in rows[side].to_pylist()] for side in ("left", "right")}
    split = [s or splits.assign(left) for s, left in zip(rows["split"].to_pylist(), ids["left"], strict=True)]
    columns = {name: rows[name] for name in ("left", "right", "score", "source")}
    columns |= {"left_id": ids["left"], "right_id": ids["right"], "split": split}
    return pa.table({name: columns[name] for name in TABLES["labelled"].names}, schema=TABLES["labelled"])
