"""Candidates of a block of anchors: the nearest documents, without those that are known, or bound, to be right.

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
from pipeline.mining.exclusions import Block, Positions
from pipeline.search.exact import dots, top_k
from pipeline.storage import shards
from pipeline.storage.vectors import vectors

DESCRIBED = ("id", "cluster_key", "text_key", "category_key", "tag_keys")


@dataclass(frozen=True)
class Described:
    """What is known of the corpus rows that were found or are positives (rising): ids and keys [W]."""

    rows: Rows
    ids: pa.Array
    clusters: Keys
    categories: Keys
    tags: sparse.csr_matrix  # [W, distinct tags]

    def at(self, rows: Rows) -> Rows:
        """Places of corpus rows that are described."""
        return np.searchsorted(self.rows, rows)


@dataclass(frozen=True)
class Found:
    """Candidates by pair, flat: owners [N] rising, corpus rows and scores [N]; the positives' scores [P] (NaN: none).

    `similar` is the cosine of a candidate and its pair's positive; NaN where not known.
    """

    owners: Rows
    rows: Rows
    scores: Floats
    similar: Floats
    positive_rows: Rows
    positive_scores: Floats
    described: Described

    @property
    def doc_ids(self) -> list[list[str]]:
        """Ids of the candidates of each pair."""
        ids = self.described.ids.take(pa.array(self.described.at(self.rows))).to_pylist()
        ends = np.cumsum(np.bincount(self.owners, minlength=len(self.positive_rows)))
        return [ids[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def exact(block: Block, corpus: Sequence[str], k: int, barred: tuple[Rows, Rows]) -> Rows:
    """Rows [A, k] of the nearest documents, by one pass over the vectors; -1: none."""
    return top_k(block.vectors, vectors(corpus), k, barred=barred)[1]


def measured(block: Block, corpus: Sequence[str], rows: Rows, places: Positions) -> Found:
    """Scores of found rows [A, K] (-1: none) and of the positives, with what the corpus says of them: two passes."""
    given = rows[block.pair_anchor]
    owners, place = np.nonzero(given >= 0)
    flat = given[owners, place]
    held = np.flatnonzero(places.positives >= 0)
    described = _describe(corpus, np.unique(np.concatenate([flat, places.positives[held]])))
    picked = np.zeros((len(held), block.vectors.shape[1]), np.float32)
    order = np.argsort(places.positives[held], kind="stable")
    _pick(corpus, places.positives[held][order], picked, order)
    positive = np.full(len(places.positives), np.nan, np.float32)
    positive[held] = dots(block.vectors, picked, block.pair_anchor[held], np.arange(len(held)))
    lookup = np.full(len(places.positives), -1, np.int64)
    lookup[held] = np.arange(len(held))
    scores, similar = _products(block, corpus, owners, flat, picked, lookup)
    return Found(owners, flat, scores, similar, places.positives, positive, described)


def _pick(corpus: Sequence[str], rows: Rows, picked: Floats, order: Rows) -> None:
    """Put the vectors of rows (rising) into `picked` at `order`."""
    first = 0
    for part in vectors(corpus):
        near = slice(*np.searchsorted(rows, [first, first + len(part)]))
        picked[order[near]] = part[rows[near] - first]
        first += len(part)


def _products(
    block: Block, corpus: Sequence[str], owners: Rows, rows: Rows, picked: Floats, lookup: Rows
) -> tuple[Floats, Floats]:
    """Cosines [N] of candidates with their anchors, and with their positives (NaN where there is none)."""
    scores, similar = np.empty(len(rows), np.float32), np.full(len(rows), np.nan, np.float32)
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    first = 0
    for part in vectors(corpus):
        at = order[slice(*np.searchsorted(ordered, [first, first + len(part)]))]
        scores[at] = dots(block.vectors, part, block.pair_anchor[owners[at]], rows[at] - first)
        with_positive = at[lookup[owners[at]] >= 0]
        similar[with_positive] = dots(picked, part, lookup[owners[with_positive]], rows[with_positive] - first)
        first += len(part)
    return scores, similar


def _describe(corpus: Sequence[str], wanted: Rows) -> Described:
    """Read what the corpus says of rows (rising)."""
    parts = []
    first = 0
    for table in shards.batches(corpus, DESCRIBED):
        near = slice(*np.searchsorted(wanted, [first, first + table.num_rows]))
        parts.append(table.take(pa.array(wanted[near] - first)))
        first += table.num_rows
    table = pa.concat_tables(parts).combine_chunks() if parts else pa.table({name: [] for name in DESCRIBED})
    cluster, text = (table[name].to_numpy().astype(np.uint64) for name in ("cluster_key", "text_key"))
    tags = table["tag_keys"].cast(pa.list_(pa.uint64()))
    owner = pc.list_parent_indices(tags).to_numpy()
    distinct, column = np.unique(pc.list_flatten(tags).to_numpy(), return_inverse=True)
    shape = (table.num_rows, max(1, len(distinct)))
    matrix = sparse.csr_matrix((np.ones(len(owner), np.int32), (owner, column)), shape=shape)
    ids = table["id"].cast(pa.string()).combine_chunks()
    ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
    categories = table["category_key"].to_numpy().astype(np.uint64)
    return Described(wanted, ids, np.where(cluster == 0, text, cluster), categories, matrix)


def candidates_table(
    block: Block, found: Found, lexical: Floats | None = None, positive_lexical: Floats | None = None
) -> pa.Table:
    """Table `candidates`, one row a pair: the candidates of its anchor and the exact score of its positive.

    `lexical` [A, K] is what BM25 says of the rows that were measured, `positive_lexical` [P] of the positives.
    """
    pairs, n = len(found.positive_rows), len(found.rows)
    at = found.described.at(found.rows)
    same, shared = _kin(found, at)
    nothing = pa.nulls(n, pa.float32())
    fields = {
        "doc_id": found.described.ids.take(pa.array(at)),
        "score": pa.array(found.scores),
        "cross_score": nothing,
        "lexical_score": nothing if lexical is None else _cells(lexical[block.pair_anchor], found.owners),
        "positive_similarity": pa.array(found.similar, from_pandas=True),
        "cluster": pa.array(found.described.clusters[at]),
        "same_category": pa.array(same),
        "shared_tags": pa.array(shared),
    }
    structs = pa.StructArray.from_arrays(list(fields.values()), fields=list(schema.CANDIDATE))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(found.owners, minlength=pairs))]).astype(np.int32)
    columns = {
        "anchor_id": pa.array([block.ids[anchor] for anchor in block.pair_anchor], pa.string()),
        "positive_id": pa.array(block.positive_ids, pa.string()),
        "positive_score": pa.array(found.positive_scores, from_pandas=True),
        "positive_cross_score": pa.nulls(pairs, pa.float32()),
        "positive_lexical_score": pa.nulls(pairs, pa.float32())
        if positive_lexical is None
        else pa.array(positive_lexical, from_pandas=True),
        "candidates": pa.ListArray.from_arrays(pa.array(offsets), structs),
    }
    return pa.table(columns, schema=schema.TABLES["candidates"])


def _kin(found: Found, at: Rows) -> tuple[Bools, Ints]:
    """Whether candidates [N] share their positive's category, and how many of its tags."""
    known = found.positive_rows[found.owners] >= 0
    place = np.zeros(len(at), np.int64)
    place[known] = found.described.at(found.positive_rows[found.owners[known]])
    category = found.described.categories
    same: Bools = known & (category[at] == category[place]) & (category[at] != 0) if len(at) else known
    shared = np.zeros(len(at), np.int32)
    if found.described.tags.nnz and len(at):
        both = found.described.tags[at].multiply(found.described.tags[place])
        shared = np.asarray(both.sum(axis=1)).ravel().astype(np.int32) * known
    return same, shared.astype(np.int32)


def _cells(values: Floats, owners: Rows) -> pa.Array:
    """Values [P, K] of candidates, flat: of each row the first ones, as many as it has candidates."""
    counts = np.bincount(owners, minlength=len(values))
    return pa.array(values[np.arange(values.shape[1]) < counts[:, None]], from_pandas=True)
