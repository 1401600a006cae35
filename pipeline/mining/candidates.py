"""Candidates of a block of anchors: the nearest documents except excluded ones, with scores and shared attributes.

The encoded corpus is streamed from its vector files, tile by tile, so that memory follows the block. The vectors are
unit vectors rounded to float16: a product of two of them is exact in float64, so that neither tiles, blocks nor the
number of actors decides a score or a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from pipeline.core import schema
from pipeline.mining.candidate_arrays import Bools, Floats, Ints, Keys, Rows
from pipeline.mining.exclusions import AnchorBlock, CorpusPositions
from pipeline.search.exact import TopK, pairwise_dot, top_k
from pipeline.storage import shards
from pipeline.storage.vectors import stream_vectors

ATTRIBUTES = ("id", "cluster_key", "text_key", "category_key", "tag_keys")


@dataclass(frozen=True)
class CorpusRows:
    """Ids and attributes of corpus rows [W], rising: those of candidates and of positives."""

    rows: Rows
    ids: pa.Array
    clusters: Keys
    categories: Keys
    tags: sparse.csr_matrix  # [W, distinct tags]

    def index_of(self, rows: Rows) -> Rows:
        """Index of corpus rows among these."""
        return np.searchsorted(self.rows, rows)


@dataclass(frozen=True)
class ScoredCandidates:
    """Candidates of pairs, flat: the pair of each [N], rising, its corpus row and its scores."""

    pairs: Rows  # [N]
    rows: Rows  # [N]
    scores: Floats  # [N] cosine to the anchor
    positive_similarity: Floats  # [N] cosine to the pair's positive; NaN where unknown
    positive_rows: Rows  # [P]
    positive_scores: Floats  # [P]; NaN where the positive is not in the corpus
    corpus_rows: CorpusRows

    @property
    def doc_ids(self) -> list[list[str]]:
        """Ids of the candidates of each pair."""
        ids = self.corpus_rows.ids.take(pa.array(self.corpus_rows.index_of(self.rows))).to_pylist()
        ends = np.cumsum(np.bincount(self.pairs, minlength=len(self.positive_rows)))
        return [ids[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def exact_candidates(block: AnchorBlock, corpus: Sequence[str], k: int, excluded: tuple[Rows, Rows]) -> TopK:
    """The nearest documents of each anchor [A, k], by one pass over the vectors."""
    return TopK(*top_k(block.vectors, stream_vectors(corpus), k, excluded=excluded))


def score_candidates(
    block: AnchorBlock, corpus: Sequence[str], rows: Rows, positions: CorpusPositions
) -> ScoredCandidates:
    """Score candidate rows [A, K] (-1: none) and the positives, and read their attributes: three passes."""
    pair_rows = rows[block.pair_anchor]
    pairs, column = np.nonzero(pair_rows >= 0)
    flat = pair_rows[pairs, column]
    with_positive = np.flatnonzero(positions.positives >= 0)
    positive_rows = positions.positives[with_positive]
    corpus_rows = _read_corpus_rows(corpus, np.unique(np.concatenate([flat, positive_rows])))
    positive_vectors = _read_vectors(corpus, positive_rows, block.vectors.shape[1])
    positive_scores = np.full(len(positions.positives), np.nan, np.float32)
    positive_scores[with_positive] = pairwise_dot(
        block.vectors, positive_vectors, block.pair_anchor[with_positive], np.arange(len(with_positive))
    )
    vector_of_pair = np.full(len(positions.positives), -1, np.int64)
    vector_of_pair[with_positive] = np.arange(len(with_positive))
    scores, similarity = _cosines(block, corpus, pairs, flat, positive_vectors, vector_of_pair)
    return ScoredCandidates(pairs, flat, scores, similarity, positions.positives, positive_scores, corpus_rows)


def _read_vectors(corpus: Sequence[str], rows: Rows, dim: int) -> Floats:
    """Vectors [N, D] of corpus rows [N], in their order."""
    output = np.zeros((len(rows), dim), np.float32)
    order = np.argsort(rows, kind="stable")
    rising = rows[order]
    first = 0
    for part in stream_vectors(corpus):
        inside = slice(*np.searchsorted(rising, [first, first + len(part)]))
        output[order[inside]] = part[rising[inside] - first]
        first += len(part)
    return output


def _cosines(
    block: AnchorBlock,
    corpus: Sequence[str],
    pairs: Rows,
    rows: Rows,
    positive_vectors: Floats,
    vector_of_pair: Rows,
) -> tuple[Floats, Floats]:
    """Cosines [N] of candidates with their anchors, and with their positives (NaN where there is none)."""
    scores, similarity = np.empty(len(rows), np.float32), np.full(len(rows), np.nan, np.float32)
    order = np.argsort(rows, kind="stable")
    rising = rows[order]
    first = 0
    for part in stream_vectors(corpus):
        at = order[slice(*np.searchsorted(rising, [first, first + len(part)]))]
        scores[at] = pairwise_dot(block.vectors, part, block.pair_anchor[pairs[at]], rows[at] - first)
        at = at[vector_of_pair[pairs[at]] >= 0]
        similarity[at] = pairwise_dot(positive_vectors, part, vector_of_pair[pairs[at]], rows[at] - first)
        first += len(part)
    return scores, similarity


def _read_corpus_rows(corpus: Sequence[str], rows: Rows) -> CorpusRows:
    """Read ids and attributes of corpus rows (rising)."""
    parts = []
    first = 0
    for table in shards.read_batches(corpus, ATTRIBUTES):
        inside = slice(*np.searchsorted(rows, [first, first + table.num_rows]))
        parts.append(table.take(pa.array(rows[inside] - first)))
        first += table.num_rows
    table = pa.concat_tables(parts).combine_chunks() if parts else pa.table({name: [] for name in ATTRIBUTES})
    cluster, text = (table[name].to_numpy().astype(np.uint64) for name in ("cluster_key", "text_key"))
    tags = table["tag_keys"].cast(pa.list_(pa.uint64()))
    tagged_row = pc.list_parent_indices(tags).to_numpy()
    distinct, column = np.unique(pc.list_flatten(tags).to_numpy(), return_inverse=True)
    shape = (table.num_rows, max(1, len(distinct)))
    matrix = sparse.csr_matrix((np.ones(len(tagged_row), np.int32), (tagged_row, column)), shape=shape)
    ids = table["id"].cast(pa.string()).combine_chunks()
    ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
    categories = table["category_key"].to_numpy().astype(np.uint64)
    return CorpusRows(rows, ids, np.where(cluster == 0, text, cluster), categories, matrix)


def candidates_table(
    block: AnchorBlock,
    candidates: ScoredCandidates,
    lexical: Floats | None = None,
    positive_lexical: Floats | None = None,
) -> pa.Table:
    """Table `candidates`, one row a pair: the candidates of its anchor and the exact score of its positive.

    `lexical` [A, K] are BM25 scores of the rows that were scored, `positive_lexical` [P] those of the positives.
    """
    pairs, count = len(candidates.positive_rows), len(candidates.rows)
    index = candidates.corpus_rows.index_of(candidates.rows)
    same_category, shared_tags = _shared_attributes(candidates, index)
    unknown = pa.nulls(count, pa.float32())
    fields = {
        "doc_id": candidates.corpus_rows.ids.take(pa.array(index)),
        "score": pa.array(candidates.scores),
        "cross_score": unknown,
        "lexical_score": unknown if lexical is None else _flatten(lexical[block.pair_anchor], candidates.pairs),
        "positive_similarity": pa.array(candidates.positive_similarity, from_pandas=True),
        "cluster": pa.array(candidates.corpus_rows.clusters[index]),
        "same_category": pa.array(same_category),
        "shared_tags": pa.array(shared_tags),
    }
    structs = pa.StructArray.from_arrays(list(fields.values()), fields=list(schema.CANDIDATE))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(candidates.pairs, minlength=pairs))]).astype(np.int32)
    columns = {
        "anchor_id": pa.array([block.ids[anchor] for anchor in block.pair_anchor], pa.string()),
        "positive_id": pa.array(block.positive_ids, pa.string()),
        "positive_score": pa.array(candidates.positive_scores, from_pandas=True),
        "positive_cross_score": pa.nulls(pairs, pa.float32()),
        "positive_lexical_score": pa.nulls(pairs, pa.float32())
        if positive_lexical is None
        else pa.array(positive_lexical, from_pandas=True),
        "candidates": pa.ListArray.from_arrays(pa.array(offsets), structs),
    }
    return pa.table(columns, schema=schema.TABLES["candidates"])


def _shared_attributes(candidates: ScoredCandidates, index: Rows) -> tuple[Bools, Ints]:
    """Whether candidates [N] share their positive's category, and how many of its tags."""
    has_positive = candidates.positive_rows[candidates.pairs] >= 0
    positive = np.zeros(len(index), np.int64)
    positive[has_positive] = candidates.corpus_rows.index_of(candidates.positive_rows[candidates.pairs[has_positive]])
    if not len(index):
        return has_positive, np.zeros(0, np.int32)
    category, tags = candidates.corpus_rows.categories, candidates.corpus_rows.tags
    same: Bools = has_positive & (category[index] == category[positive]) & (category[index] != 0)
    shared = np.zeros(len(index), np.int32)
    if tags.nnz:
        common = tags[index].multiply(tags[positive])
        shared = np.asarray(common.sum(axis=1)).ravel().astype(np.int32) * has_positive
    return same, shared.astype(np.int32)


def _flatten(values: Floats, pairs: Rows) -> pa.Array:
    """Values [P, K] of candidates, flat: of each row the first ones, as many as it has candidates."""
    counts = np.bincount(pairs, minlength=len(values))
    return pa.array(values[np.arange(values.shape[1]) < counts[:, None]], from_pandas=True)
