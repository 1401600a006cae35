"""Leaks: training rows that say what an evaluation asks.

An evaluation asks the queries of the held-out splits, those of every further set named, and held-out labelled pairs.
A training row (a pair, the anchor and positive of a triplet, a labelled pair) leaks, by the first of these that holds:

    leaked_judgment       its two texts are such a query and a document judged relevant to it, in either order
    leaked_query          its anchor is such a query
    query_as_positive     its positive is such a query
    leaked_labelled_pair  its two texts are a held-out labelled pair, in either order
    near_...              the last three with near duplicates of these texts, by the Jaccard index of their shingles

Texts are equal when their normal forms differ in case only. A corpus is common to all splits, so a document of an
evaluation as the positive of another question is no leak; such rows are counted as `shared_documents` and kept.
Negatives are not looked at: a row teaches nothing right about them.
"""

from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.building.minhash import NearConfig, alike, sketch
from pipeline.building.shingles import Hashes, jaccard, mix, shingle
from pipeline.text.columns import keys, words

ASKED = pa.schema(
    [
        ("text", pa.string()),
        ("key", pa.uint64()),
        ("origin", pa.string()),  # split or set that asks it
        ("bits", pa.uint64()),
        ("bands", pa.list_(pa.uint64())),  # null for a text without a word
    ]
)
KEYS = pa.schema([("key", pa.uint64())])
SAME_BAND = 8  # questions of one band with which a text is compared
LONGER = 2.0  # a text this many times as long as a near duplicate could be is not compared
Numbers = npt.NDArray[np.int64]


class LeakConfig(NearConfig):
    """What is done about training rows that say what an evaluation asks."""

    action: Literal["remove", "report", "off"] = Field(
        default="remove", description="remove such rows, only count them, or do not look"
    )
    near: bool = Field(default=True, description="near duplicates count too, not only equal texts")


def keys_of(texts: pa.Array | pa.ChunkedArray) -> Hashes:
    """64-bit keys of texts [N], the same for texts that differ in case only."""
    return words(keys(texts)).astype(np.uint64)


def both(left: Hashes, right: Hashes) -> Hashes:
    """Keys of (query, document) [N] from the keys of their texts."""
    with np.errstate(over="ignore"):
        return mix(left * np.uint64(0x9E3779B97F4A7C15) + right)


def in_one(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.Array:
    """Pairs of texts [N] as one text each, the same in either order."""
    pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
    return pa.array([" \u00b6 ".join(sorted(pair, key=str.casefold)) for pair in pairs], pa.string())


def asked(texts: pa.Array | pa.ChunkedArray, origins: list[str], config: LeakConfig) -> pa.Table:
    """Rows of `ASKED` for what an evaluation asks; sketched here, where it is known, so that this is done once."""
    bits, bands = np.zeros(len(texts), np.uint64), [None] * len(texts)
    if config.near:
        found = sketch(texts, config)
        bits, bands = found.bits, [k if u else None for k, u in zip(found.keys.tolist(), found.usable, strict=True)]
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return pa.table([texts, keys_of(texts), origins, bits, pa.array(bands, pa.list_(pa.uint64()))], schema=ASKED)


class Asked:
    """Everything that evaluations ask, to be looked up: equal texts by key, near ones by band and then exactly."""

    def __init__(self, rows: pa.Table, config: LeakConfig) -> None:
        order = [("origin", "descending"), ("key", "ascending")]
        self.rows, self.config = rows.sort_by(order).combine_chunks(), config
        self.keys = self.rows["key"].to_numpy()
        self.order = np.argsort(self.keys, kind="stable")
        self.longest = (pc.max(pc.utf8_length(self.rows["text"])).as_py() or 0) * LONGER / config.threshold

    def equal(self, keys: Hashes) -> Numbers:
        """Rows [N] whose text has the given keys; -1 for none."""
        place = np.searchsorted(self.keys, keys, sorter=self.order)
        row = np.append(self.order, 0)[place]
        same = (place < len(self.keys)) & (self.keys[row] == keys) if len(self.keys) else np.zeros(len(keys), bool)
        return np.where(same, row, -1)

    @cached_property
    def _bands(self) -> tuple[Numbers, Hashes, Numbers]:
        """Rows that have bands, and by band their keys [b, M] in order with the places [b, M] they came from."""
        usable = np.flatnonzero(self.rows["bands"].is_valid().to_numpy())
        flat = pc.list_flatten(self.rows["bands"]).to_numpy().reshape(len(usable), self.config.bands)
        places = np.argsort(flat, axis=0, kind="stable")
        return usable, np.take_along_axis(flat, places, axis=0).T.copy(), places.T.copy()

    def near(self, texts: pa.Array) -> Numbers:
        """Rows [N] that are near duplicates of texts, the nearest of each; -1 for none."""
        best = np.full(len(texts), -1)
        short = np.flatnonzero(pc.less_equal(pc.utf8_length(texts), self.longest).to_numpy(zero_copy_only=False))
        if len(self.rows) == 0 or len(short) == 0 or not self.config.near:
            return best
        mine = texts.take(pa.array(short))
        pairs = self._pairs(mine)
        wanted, at = np.unique(pairs[:, 1], return_inverse=True)
        theirs = shingle(self.rows["text"].take(pa.array(wanted)), self.config.words)
        taken, own = np.unique(pairs[:, 0], return_inverse=True)
        score = jaccard(shingle(mine.take(pa.array(taken)), self.config.words), theirs, np.stack([own, at], axis=1))
        kept = np.flatnonzero(score >= self.config.threshold)
        for pair in kept[np.lexsort((-pairs[kept, 1], score[kept]))]:  # the best comes last and stays
            best[short[pairs[pair, 0]]] = pairs[pair, 1]
        return best

    def _pairs(self, texts: pa.Array) -> Numbers:
        """Candidates [P, 2]: place of a text, row of what is asked."""
        usable, keys, places = self._bands
        found = sketch(texts, self.config)
        bits, pairs = self.rows["bits"].to_numpy(), [np.zeros((0, 2), np.int64)]
        for band in range(self.config.bands if len(usable) else 0):
            low = np.searchsorted(keys[band], found.keys[found.rows, band], "left")
            high = np.searchsorted(keys[band], found.keys[found.rows, band], "right")
            counts = np.minimum(high - low, SAME_BAND)
            text = np.repeat(found.rows, counts)
            step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            row = usable[places[band][np.repeat(low, counts) + step]]
            kept = alike(found.bits[text], bits[row], self.config)
            pairs.append(np.stack([text[kept], row[kept]], axis=1))
        return np.unique(np.concatenate(pairs), axis=0)


def leaks(
    left: pa.ChunkedArray, right: pa.ChunkedArray, queries: Asked, pairs: Asked, judged: Hashes
) -> tuple[list[str | None], list[str]]:
    """Reason of each training row [N] that leaks, None for the others, and what each repeats.

    `judged` are the sorted keys (`both`) of evaluation queries with their relevant documents.
    """
    ends = [_looked_up(side, queries) for side in (left, right)]
    (left_keys, left_equal, left_near), (right_keys, right_equal, right_near) = ends
    whole = in_one(left, right) if len(pairs.rows) else pa.array([""] * len(left), pa.string())
    _, whole_equal, whole_near = _looked_up(whole, pairs)
    known = np.isin(both(left_keys, right_keys), judged) | np.isin(both(right_keys, left_keys), judged)
    either = np.where(left_equal >= 0, left_equal, right_equal)
    found = [
        ("leaked_judgment", np.where(known, either, -1), queries),
        ("leaked_query", left_equal, queries),
        ("query_as_positive", right_equal, queries),
        ("leaked_labelled_pair", whole_equal, pairs),
        ("near_leaked_query", left_near, queries),
        ("near_query_as_positive", right_near, queries),
        ("near_leaked_labelled_pair", whole_near, pairs),
    ]
    reasons: list[str | None] = [None] * len(left)
    repeats = [""] * len(left)
    for reason, rows, source in reversed(found):
        for place in np.flatnonzero(rows >= 0):
            what = source.rows.slice(int(rows[place]), 1).to_pylist()[0]
            reasons[place], repeats[place] = reason, f"'{what['text'][:80]}' of {what['origin']}"
    return reasons, repeats


def _looked_up(texts: pa.Array | pa.ChunkedArray, index: Asked) -> tuple[Hashes, Numbers, Numbers]:
    """Keys of texts [N], the rows that equal them and the rows that are near; each distinct text is looked up once."""
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    coded = array.dictionary_encode()
    at = coded.indices.to_numpy()
    keys = keys_of(coded.dictionary)
    return keys[at], index.equal(keys)[at], index.near(coded.dictionary)[at]
