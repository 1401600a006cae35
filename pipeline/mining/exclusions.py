"""What is known, or bound, to be right for the anchors of a block, and so is no candidate of theirs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.core.config import Config
from pipeline.mining.candidate_arrays import Floats, Keys, Rows
from pipeline.storage import shards
from pipeline.text.normalize import hash64, normalise


@dataclass(frozen=True)
class Owned:
    """Keys that count for an anchor: owners [M], keys [M]."""

    owners: Rows
    keys: Keys

    def __add__(self, other: "Owned") -> "Owned":
        return Owned(np.concatenate([self.owners, other.owners]), np.concatenate([self.keys, other.keys]))


NONE = Owned(np.empty(0, np.int64), np.empty(0, np.uint64))


def text_keys(texts: Sequence[str]) -> Keys:
    """Keys [N] of normalised texts, the same for texts that differ in case or white space only; never 0."""
    return np.fromiter((hash64(normalise(text).casefold()) | 1 for text in texts), np.uint64, len(texts))


def id_keys(ids: Sequence[str | None]) -> Keys:
    """Keys [N] of ids; 0 for none."""
    return np.fromiter((0 if name is None else hash64(name) | 1 for name in ids), np.uint64, len(ids))


def matches(owners: Rows, keys: Keys, documents: Keys) -> tuple[Rows, Rows]:
    """Join owned keys (owners [M], keys [M]) with the keys of documents [N] into (owner, document) rows.

    Key 0 stands for none and matches nothing.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.searchsorted(ordered, documents, "left")
    count = np.searchsorted(ordered, documents, "right") - first
    count[documents == 0] = 0
    hits = np.flatnonzero(count)
    spread = np.repeat(hits, count[hits])
    step = np.arange(len(spread)) - np.repeat(np.cumsum(count[hits]) - count[hits], count[hits])
    return owners[order[first[spread] + step]], spread


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
    texts: list[str] | None = None  # [A], where words are looked at


@dataclass(frozen=True)
class Positions:
    """Corpus row of each pair's positive [P] (-1: none), and the barred (anchor, row) pairs, sorted by neither."""

    positives: Rows
    barred: tuple[Rows, Rows]


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


def positions(block: Block, corpus: Sequence[str], known: Owned, bound: Owned, exclude: Exclude) -> Positions:
    """Look for the positives in the encoded corpus, and for all that is barred: two passes over its keys.

    `known` and `bound` (siblings) are document ids that are never candidates.
    """
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
    barred = np.concatenate([empty, *(o for o, _ in parts)]), np.concatenate([empty, *(r for _, r in parts)])
    return Positions(rows, barred)


def _corpus_keys(corpus: Sequence[str]) -> Iterator[tuple[int, dict[str, Keys]]]:
    first = 0
    for table in shards.batches(corpus, KEYS):
        yield first, {name: table[name].to_numpy() for name in KEYS}
        first += table.num_rows
