"""Candidates of a block of anchors: the nearest documents, without those that are known, or bound, to be right.

The encoded corpus is streamed from its vector files, tile by tile, so that memory follows the block. The vectors are
unit vectors rounded to float16: a product of two of them is exact in float64, so that neither tiles, blocks nor the
number of actors decides a score or a tie.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline import shards
from pipeline.config import Config
from pipeline.miners import Floats, Keys, Rows, matches
from pipeline.search import dots, top_k
from pipeline.text import hash64, normalise

KEYS = ("id_key", "text_key", "cluster_key")


class Exclude(Config):
    """Documents that are no candidates of an anchor, beside its known positives."""

    same_text: bool = Field(True, description="documents that read like a known positive or like the anchor itself")
    same_cluster: bool = Field(True, description="near duplicates of a known positive (corpus.cluster_id)")
    same_group: bool = Field(False, description="positives of other anchors of the same group (siblings)")


@dataclass(frozen=True)
class Block:
    """Anchors [A] with their vectors, and the pairs [P] that they have in the rows at hand."""

    ids: list[str]
    vectors: Floats  # [A, D]
    text_keys: Keys  # [A]
    pair_anchor: Rows  # [P], index into the anchors
    positive_ids: list[str]  # [P]
    positive_keys: Keys  # [P], of the positives' texts
    groups: list[str | None]  # [P]


@dataclass(frozen=True)
class Owned:
    """Keys that count for an anchor: owners [M], keys [M]."""

    owners: Rows
    keys: Keys

    def __add__(self, other: "Owned") -> "Owned":
        return Owned(np.concatenate([self.owners, other.owners]), np.concatenate([self.keys, other.keys]))


NONE = Owned(np.empty(0, np.int64), np.empty(0, np.uint64))


@dataclass(frozen=True)
class Found:
    """Scores [A, K] falling (-inf: none), the documents' ids, and the positives' scores [P] (NaN: unknown)."""

    scores: Floats
    doc_ids: list[list[str]]
    positive_scores: Floats


def text_keys(texts: Sequence[str]) -> Keys:
    """Keys [N] of normalised texts, the same for texts that differ in case or white space only; never 0."""
    return np.fromiter((hash64(normalise(text).casefold()) | 1 for text in texts), np.uint64, len(texts))


def id_keys(ids: Sequence[str | None]) -> Keys:
    """Keys [N] of ids; 0 for none."""
    return np.fromiter((0 if name is None else hash64(name) | 1 for name in ids), np.uint64, len(ids))


def known_positives(block: Block, pairs: Sequence[str], qrels: Sequence[str]) -> Owned:
    """Ids of every positive of the anchors, in whatever split: partners in pairs, and relevance > 0 in qrels."""
    known = NONE
    for table in shards.batches(pairs, ["anchor_id", "positive_id"]):
        known += _owned(block.ids, np.arange(len(block.ids)), table["anchor_id"], table["positive_id"])
    for table in shards.batches(qrels, ["query_id", "doc_id", "relevance"]):
        right = table.filter(pc.greater(table["relevance"], 0))
        known += _owned(block.ids, np.arange(len(block.ids)), right["query_id"], right["doc_id"])
    return known


def siblings(block: Block, pairs: Sequence[str]) -> Owned:
    """Ids of the positives of every anchor that shares a group with an anchor of the block."""
    grouped = [(name, owner) for name, owner in zip(block.groups, block.pair_anchor, strict=True) if name is not None]
    owners = np.array([owner for _, owner in grouped], dtype=np.int64)
    found = NONE
    for table in shards.batches(pairs, ["group_id", "positive_id"]):
        found += _owned([name for name, _ in grouped], owners, table["group_id"], table["positive_id"])
    return found


def _owned(names: list[str], owners: Rows, left: pa.ChunkedArray, right: pa.ChunkedArray) -> Owned:
    """Ids on the right whose left is one of `names`, each for the owner of that name."""
    hit = pc.is_in(left, value_set=pa.array(names, pa.string()))
    left, right = left.filter(hit), right.filter(hit)
    if not len(left):
        return NONE
    owner, row = matches(owners, id_keys(names), id_keys(left.to_pylist()))
    return Owned(owner, id_keys(right.to_pylist())[row])


def find(block: Block, corpus: Sequence[str], known: Owned, bound: Owned, exclude: Exclude, k: int) -> Found:
    """Search the encoded corpus for the k best candidates of each anchor, and score the positives.

    `known` and `bound` (siblings) are document ids that are never candidates.
    """
    rows, barred = _places(block, corpus, known, bound, exclude)
    wanted = np.unique(rows[rows >= 0])
    picked = np.zeros((len(wanted), block.vectors.shape[1]), np.float32)
    scores, found = top_k(block.vectors, _picking(corpus, wanted, picked), k, barred=barred)
    positive = np.full(len(rows), np.nan, np.float32)
    held = np.flatnonzero(rows >= 0)
    positive[held] = dots(block.vectors, picked, block.pair_anchor[held], np.searchsorted(wanted, rows[held]))
    return Found(scores, _names(corpus, found), positive)


def _places(
    block: Block, corpus: Sequence[str], known: Owned, bound: Owned, exclude: Exclude
) -> tuple[Rows, tuple[Rows, Rows]]:
    """Corpus row of each pair's positive [P] (-1: none), and the barred (anchor, row) pairs."""
    rows = np.full(len(block.positive_ids), -1, np.int64)
    pair_keys = id_keys(block.positive_ids)
    texts = Owned(np.arange(len(block.ids)), block.text_keys) + Owned(block.pair_anchor, block.positive_keys)
    clusters = NONE
    for first, docs in _corpus_keys(corpus):
        pair, row = matches(np.arange(len(rows)), pair_keys, docs["id_key"])
        rows[pair] = first + row
        owner, row = matches(known.owners, known.keys, docs["id_key"])
        texts += Owned(owner, docs["text_key"][row])
        clusters += Owned(owner, docs["cluster_key"][row])
    barring = [("id_key", known + bound)]
    barring += [("text_key", texts)] if exclude.same_text else []
    barring += [("cluster_key", clusters)] if exclude.same_cluster else []
    parts = [
        (owner, first + row)
        for first, docs in _corpus_keys(corpus)
        for name, owned in barring
        for owner, row in [matches(owned.owners, owned.keys, docs[name])]
    ]
    empty = np.empty(0, np.int64)
    return rows, (np.concatenate([empty, *(o for o, _ in parts)]), np.concatenate([empty, *(r for _, r in parts)]))


def _corpus_keys(corpus: Sequence[str]) -> Iterator[tuple[int, dict[str, Keys]]]:
    first = 0
    for table in shards.batches(corpus, KEYS):
        yield first, {name: table[name].to_numpy() for name in KEYS}
        first += table.num_rows


def _picking(corpus: Sequence[str], wanted: Rows, picked: Floats) -> Iterator[Floats]:
    """Stream the corpus vectors and keep those of the wanted rows (rising) on the way."""
    first = 0
    for table in shards.batches(corpus, ["vector"]):
        vectors = as_matrix(table["vector"])
        near = slice(*np.searchsorted(wanted, [first, first + len(vectors)]))
        picked[near] = vectors[wanted[near] - first]
        yield vectors
        first += len(vectors)


def as_matrix(column: pa.ChunkedArray) -> Floats:
    """Vectors [N, D] of a fixed-size list column, as float32."""
    width = column.type.list_size
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    matrix: npt.NDArray[np.float32] = np.concatenate([*flat, np.empty(0, np.float16)]).astype(np.float32)
    return matrix.reshape(-1, width)


def _names(corpus: Sequence[str], found: Rows) -> list[list[str]]:
    """Ids of the found rows [A, K]; -1 has none."""
    wanted = np.unique(found[found >= 0])
    names: list[str] = []
    first = 0
    for table in shards.batches(corpus, ["id"]):
        near = slice(*np.searchsorted(wanted, [first, first + table.num_rows]))
        names += table["id"].take(wanted[near] - first).to_pylist()
        first += table.num_rows
    return [[names[at] for at in np.searchsorted(wanted, row[row >= 0])] for row in found]
