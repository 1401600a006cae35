"""Documents that are never candidates of an anchor: its known positives, their near duplicates, and equal texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.core.config import Config
from pipeline.mining.candidate_arrays import Floats, Keys, Rows
from pipeline.storage import shards
from pipeline.text.same_document import id_keys, join_keys


@dataclass(frozen=True)
class AnchorKeys:
    """Keys of documents that belong to anchors: the anchor of each [M], and the key [M]."""

    anchors: Rows
    keys: Keys

    def __add__(self, other: "AnchorKeys") -> "AnchorKeys":
        return AnchorKeys(np.concatenate([self.anchors, other.anchors]), np.concatenate([self.keys, other.keys]))


NO_KEYS = AnchorKeys(np.empty(0, np.int64), np.empty(0, np.uint64))


KEYS = ("id_key", "text_key", "cluster_key")


class Exclude(Config):
    """Documents that are no candidates of an anchor, besides its known positives."""

    same_text: bool = Field(True, description="documents that read like a known positive or like the anchor itself")
    same_cluster: bool = Field(True, description="near duplicates of a known positive (corpus.cluster_id)")
    same_group: bool = Field(False, description="positives of other anchors of the same group (siblings)")


@dataclass(frozen=True)
class AnchorBlock:
    """Anchors [A] with their vectors, and the pairs [P] that they have in the rows at hand."""

    ids: list[str]
    vectors: Floats  # [A, D]
    text_keys: Keys  # [A]
    pair_anchor: Rows  # [P], index into the anchors
    positive_ids: list[str]  # [P]
    positive_keys: Keys  # [P], of the positives' texts
    groups: list[str | None]  # [P]
    texts: list[str] | None = None  # [A], where a lexical search needs them


@dataclass(frozen=True)
class CorpusPositions:
    """Corpus row of each pair's positive [P] (-1: none), and the excluded (anchor, row) pairs, in no order."""

    positives: Rows
    excluded: tuple[Rows, Rows]


def known_positives(block: AnchorBlock, pairs: Sequence[str], qrels: Sequence[str]) -> AnchorKeys:
    """Ids of every positive of the anchors, in whatever split: partners in pairs, and relevance > 0 in qrels."""
    positives = NO_KEYS
    for table in shards.read_batches(pairs, ["anchor_id", "positive_id"]):
        positives += _keys_of(block.ids, np.arange(len(block.ids)), table["anchor_id"], table["positive_id"])
    for table in shards.read_batches(qrels, ["query_id", "doc_id", "relevance"]):
        relevant = table.filter(pc.greater(table["relevance"], 0))
        positives += _keys_of(block.ids, np.arange(len(block.ids)), relevant["query_id"], relevant["doc_id"])
    return positives


def group_positives(block: AnchorBlock, pairs: Sequence[str]) -> AnchorKeys:
    """Ids of the positives of every anchor that shares a group with an anchor of the block."""
    grouped = [
        (group, anchor) for group, anchor in zip(block.groups, block.pair_anchor, strict=True) if group is not None
    ]
    anchors = np.array([anchor for _, anchor in grouped], dtype=np.int64)
    positives = NO_KEYS
    for table in shards.read_batches(pairs, ["group_id", "positive_id"]):
        positives += _keys_of([group for group, _ in grouped], anchors, table["group_id"], table["positive_id"])
    return positives


def _keys_of(names: list[str], anchors: Rows, left: pa.ChunkedArray, right: pa.ChunkedArray) -> AnchorKeys:
    """Ids of `right` whose `left` is one of `names`, each for the anchor of that name."""
    hit = pc.is_in(left, value_set=pa.array(names, pa.string()))
    left, right = left.filter(hit), right.filter(hit)
    if not len(left):
        return NO_KEYS
    anchor, row = join_keys(anchors, id_keys(names), id_keys(left.to_pylist()))
    return AnchorKeys(anchor, id_keys(right.to_pylist())[row])


def find_positions(
    block: AnchorBlock, corpus: Sequence[str], positives: AnchorKeys, siblings: AnchorKeys, exclude: Exclude
) -> CorpusPositions:
    """Find the pairs' positives and all excluded documents in the encoded corpus: two passes over its keys.

    `positives` are the ids of known positives, whose near duplicates and equal texts are excluded as the settings say;
    `siblings` are further ids to exclude, as is the anchor's own.
    """
    rows = np.full(len(block.positive_ids), -1, np.int64)
    pair_keys = id_keys(block.positive_ids)
    texts = AnchorKeys(np.arange(len(block.ids)), block.text_keys) + AnchorKeys(block.pair_anchor, block.positive_keys)
    clusters = NO_KEYS
    for first, docs in _corpus_keys(corpus):
        pair, row = join_keys(np.arange(len(rows)), pair_keys, docs["id_key"])
        rows[pair] = first + row
        anchor, row = join_keys(positives.anchors, positives.keys, docs["id_key"])
        texts += AnchorKeys(anchor, docs["text_key"][row])
        clusters += AnchorKeys(anchor, docs["cluster_key"][row])
    itself = AnchorKeys(np.arange(len(block.ids)), id_keys(block.ids))
    excluding = [("id_key", positives + siblings + itself)]
    excluding += [("text_key", texts)] if exclude.same_text else []
    excluding += [("cluster_key", clusters)] if exclude.same_cluster else []
    parts = [
        (anchor, first + row)
        for first, docs in _corpus_keys(corpus)
        for name, keys in excluding
        for anchor, row in [join_keys(keys.anchors, keys.keys, docs[name])]
    ]
    empty = np.empty(0, np.int64)
    excluded = np.concatenate([empty, *(a for a, _ in parts)]), np.concatenate([empty, *(r for _, r in parts)])
    return CorpusPositions(rows, excluded)


def _corpus_keys(corpus: Sequence[str]) -> Iterator[tuple[int, dict[str, Keys]]]:
    """Keys of the corpus, a batch at a time, with the row of the batch's first document."""
    first = 0
    for table in shards.read_batches(corpus, KEYS):
        yield first, {name: table[name].to_numpy() for name in KEYS}
        first += table.num_rows
