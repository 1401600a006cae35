"""Documents that are never candidates of an anchor: its known positives, and whatever is the same as one of them.

The same are near duplicates, equal texts and, of products, offers of one group and equal titles: what `build` bars from
its own triplets (`pipeline.building.negatives`). An anchor is known by its text, whatever its ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.core.config import Config
from pipeline.mining.candidate_arrays import Floats, Keys, Rows
from pipeline.storage import shards
from pipeline.text.columns import key_column, key_prefixes
from pipeline.text.same_document import id_keys, join_keys, text_keys


@dataclass(frozen=True)
class AnchorKeys:
    """Keys of documents that belong to anchors: the anchor of each [M], and the key [M]."""

    anchors: Rows
    keys: Keys

    def __add__(self, other: "AnchorKeys") -> "AnchorKeys":
        return AnchorKeys(np.concatenate([self.anchors, other.anchors]), np.concatenate([self.keys, other.keys]))


NO_KEYS = AnchorKeys(np.empty(0, np.int64), np.empty(0, np.uint64))


KEYS = ("id_key", "text_key", "cluster_key", "group_key", "title_key")


class Exclude(Config):
    """Documents that are no candidates of an anchor, besides its known positives."""

    same_text: bool = Field(True, description="documents that read like a known positive or like the anchor itself")
    same_cluster: bool = Field(True, description="near duplicates of a known positive (corpus.cluster_id)")
    same_product: bool = Field(
        True,
        description="products of the group (corpus.group_id) or the title of a known positive or of the anchor itself, "
        "and documents titled like the anchor",
    )
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
    barred: Rows = field(default_factory=lambda: np.empty(0, np.int64))  # [A], how many as the same product alone


@dataclass(frozen=True)
class AnchorNames:
    """Ids under which anchors stand: the anchor of each [M], and the id."""

    anchors: Rows
    ids: list[str]


def names_of(block: AnchorBlock, encoded: Sequence[str], queries: Sequence[str]) -> AnchorNames:
    """Ids of the anchors of a block, and of all other anchors (encoded ones) and queries that read the same."""
    rows, ids = [np.arange(len(block.ids))], list(block.ids)
    others = [(table["id"], table["text_key"]) for table in shards.read_batches(encoded, ["id", "text_key"])]
    own = key_prefixes(key_column(pa.array(block.texts or [], pa.string())))
    for table in shards.read_batches(queries, ["query_id", "text"]):
        alike = table.filter(pa.array(np.isin(key_prefixes(key_column(table["text"])), own)))
        others.append((alike["query_id"], pa.array(text_keys(alike["text"].to_pylist()))))
    for names, keys in others:
        anchor, row = join_keys(np.arange(len(block.ids)), block.text_keys, keys.to_numpy())
        rows.append(anchor)
        ids += names.take(pa.array(row)).to_pylist()
    return AnchorNames(np.concatenate(rows), ids)


def known_positives(names: AnchorNames, pairs: Sequence[str], qrels: Sequence[str]) -> AnchorKeys:
    """Ids of every positive of the anchors, in whatever split: partners in pairs, and relevance > 0 in qrels."""
    positives = NO_KEYS
    for table in shards.read_batches(pairs, ["anchor_id", "positive_id"]):
        positives += _keys_of(names, table["anchor_id"], table["positive_id"])
    for table in shards.read_batches(qrels, ["query_id", "doc_id", "relevance"]):
        relevant = table.filter(pc.greater(table["relevance"], 0))
        positives += _keys_of(names, relevant["query_id"], relevant["doc_id"])
    return positives


def group_positives(block: AnchorBlock, pairs: Sequence[str]) -> AnchorKeys:
    """Ids of the positives of every anchor that shares a group with an anchor of the block."""
    grouped = [
        (group, anchor) for group, anchor in zip(block.groups, block.pair_anchor, strict=True) if group is not None
    ]
    groups = AnchorNames(np.array([anchor for _, anchor in grouped], dtype=np.int64), [group for group, _ in grouped])
    positives = NO_KEYS
    for table in shards.read_batches(pairs, ["group_id", "positive_id"]):
        positives += _keys_of(groups, table["group_id"], table["positive_id"])
    return positives


def _keys_of(names: AnchorNames, left: pa.ChunkedArray, right: pa.ChunkedArray) -> AnchorKeys:
    """Ids of `right` whose `left` is one of the names, each for the anchor of that name."""
    hit = pc.is_in(left, value_set=pa.array(names.ids, pa.string()))
    left, right = left.filter(hit), right.filter(hit)
    if not len(left):
        return NO_KEYS
    anchor, row = join_keys(names.anchors, id_keys(names.ids), id_keys(left.to_pylist()))
    return AnchorKeys(anchor, id_keys(right.to_pylist())[row])


def find_positions(
    block: AnchorBlock, corpus: Sequence[str], positives: AnchorKeys, siblings: AnchorKeys, exclude: Exclude
) -> CorpusPositions:
    """Find the pairs' positives and all excluded documents in the encoded corpus: two passes over its keys.

    `positives` are the ids of known positives, whose near duplicates, equal texts and products are excluded as the
    settings say; `siblings` are further ids to exclude, as is the anchor's own. A product whose text or title is that
    of the anchor is what the anchor is about, and its group and cluster are barred too.
    """
    rows = np.full(len(block.positive_ids), -1, np.int64)
    pair_keys, anchors = id_keys(block.positive_ids), np.arange(len(block.ids))
    own = AnchorKeys(anchors, block.text_keys)
    same = {"text_key": own + AnchorKeys(block.pair_anchor, block.positive_keys)}
    for first, docs in _corpus_keys(corpus):
        pair, row = join_keys(np.arange(len(rows)), pair_keys, docs["id_key"])
        rows[pair] = first + row
        parts = [join_keys(positives.anchors, positives.keys, docs["id_key"])]
        if exclude.same_product:
            parts += [join_keys(own.anchors, own.keys, docs[name]) for name in ("text_key", "product_title_key")]
        anchor, row = (np.concatenate(side) for side in zip(*parts, strict=True))
        for name in ("text_key", "cluster_key", "group_key", "product_title_key"):
            same[name] = same.get(name, NO_KEYS) + AnchorKeys(anchor, docs[name][row])
    same["id_key"] = positives + siblings + AnchorKeys(anchors, id_keys(block.ids))
    same["title_key"] = own
    known = ["id_key", *["text_key"] * exclude.same_text, *["cluster_key"] * exclude.same_cluster]
    product = ["group_key", "product_title_key", "title_key"] if exclude.same_product else []
    sides = [{name: same[name] for name in names if name in same} for names in (known, product)]
    excluded, barred = _find_excluded(corpus, *sides)
    return CorpusPositions(rows, excluded, np.bincount(barred, minlength=len(block.ids)))


def _find_excluded(
    corpus: Sequence[str], known: Mapping[str, AnchorKeys], product: Mapping[str, AnchorKeys]
) -> tuple[tuple[Rows, Rows], Rows]:
    """The (anchor, row) pairs of documents that have a key of an anchor, and the anchors of those by `product` alone.

    `known` and `product` hold the keys of anchors by the name of the documents' keys.
    """
    anchors, rows, barred = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, docs in _corpus_keys(corpus):
        count = len(docs["id_key"])
        by_known, by_product = (_codes(side, docs, count) for side in (known, product))
        alone = np.setdiff1d(by_product, by_known, assume_unique=True)
        anchor, row = np.divmod(np.concatenate([by_known, alone]), max(1, count))
        anchors.append(anchor)
        rows.append(first + row)
        barred.append(alone // max(1, count))
    return (np.concatenate(anchors), np.concatenate(rows)), np.concatenate(barred)


def _codes(keys: Mapping[str, AnchorKeys], docs: Mapping[str, Keys], count: int) -> Rows:
    """Distinct `anchor * count + row` of the documents of a batch that have a key of an anchor."""
    codes = [np.empty(0, np.int64)]
    for name, of_anchors in keys.items():
        anchor, row = join_keys(of_anchors.anchors, of_anchors.keys, docs[name])
        codes.append(anchor * count + row)
    return np.unique(np.concatenate(codes))


def _corpus_keys(corpus: Sequence[str]) -> Iterator[tuple[int, dict[str, Keys]]]:
    """Keys of the corpus, a batch at a time, with the row of the batch's first document."""
    first = 0
    for table in shards.read_batches(corpus, KEYS):
        keys = {name: table[name].to_numpy() for name in KEYS}
        yield first, keys | {"product_title_key": np.where(keys["group_key"] == 0, 0, keys["title_key"])}
        first += table.num_rows
