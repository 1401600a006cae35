"""Decontamination: training rows that repeat what an evaluation will ask are found by their texts.

Evaluation texts are the queries of the held-out splits and of every extra data set, and held-out labelled pairs.
A training row (a pair, the anchor and positive of a triplet, a labelled pair) leaks, by the first of these that holds:

    leaked_judgment       its two texts are an evaluation query and a document judged relevant to it, in either order
    leaked_query          its anchor is an evaluation query
    query_as_positive     its positive is an evaluation query
    leaked_labelled_pair  its two texts are a held-out labelled pair, in either order
    near_...              the last three with near duplicates of these texts, by the Jaccard index of their shingles
    generated_for_held_out  its anchor was made of its positive, a document that is relevant to a held-out query

Texts are equal when their normal forms differ in case only. A corpus is common to all splits, so a document of an
evaluation as the positive of another question is no leak; such rows are counted as `shared_documents` and kept.
Negatives are not checked: a row that pushes a text away teaches nothing of what it is right for.
"""

from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.building.minhash import NearConfig, may_be_near, sketch
from pipeline.building.shingles import Hashes, jaccard, mix, shingle
from pipeline.core.ranges import expand_ranges
from pipeline.text.columns import key_column, key_prefixes

EVALUATION_TEXTS = pa.schema(
    [
        ("text", pa.string()),
        ("key", pa.uint64()),
        ("origin", pa.string()),  # split or extra data set of the text
        ("bits", pa.uint64()),
        ("bands", pa.list_(pa.uint64())),  # null for a text without a word
    ]
)
SAME_BAND = 8  # evaluation texts of one band with which a text is compared
LONGER = 2.0  # a text this many times as long as a near duplicate could be is not compared
Numbers = npt.NDArray[np.int64]


class LeakConfig(NearConfig):
    """How training rows that repeat evaluation texts are found, and whether they are removed."""

    action: Literal["remove", "report", "off"] = Field(
        default="remove", description="remove such rows, only count them, or do not look for any"
    )
    near: bool = Field(default=True, description="near duplicates count too, not only equal texts")


def text_keys(texts: pa.Array | pa.ChunkedArray) -> Hashes:
    """64-bit keys of texts [N], the same for texts that differ in case only."""
    return key_prefixes(key_column(texts)).astype(np.uint64)


def pair_keys(left: Hashes, right: Hashes) -> Hashes:
    """Keys of pairs of texts [N] from the keys of their texts; the order of the two counts."""
    with np.errstate(over="ignore"):
        return mix(left * np.uint64(0x9E3779B97F4A7C15) + right)


def joined_pair(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.Array:
    """Pairs of texts [N] as one text each, the same in either order."""
    pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
    return pa.array([" \u00b6 ".join(sorted(pair, key=str.casefold)) for pair in pairs], pa.string())


def evaluation_texts(texts: pa.Array | pa.ChunkedArray, origins: list[str], config: LeakConfig) -> pa.Table:
    """Rows of `EVALUATION_TEXTS` for texts [N] and their origins [N]; each is sketched here, and so only once."""
    bits, bands = np.zeros(len(texts), np.uint64), [None] * len(texts)
    if config.near:
        sketches = sketch(texts, config)
        usable = zip(sketches.keys.tolist(), sketches.usable, strict=True)
        bits, bands = sketches.bits, [keys if has_words else None for keys, has_words in usable]
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return pa.table(
        [texts, text_keys(texts), origins, bits, pa.array(bands, pa.list_(pa.uint64()))], schema=EVALUATION_TEXTS
    )


def longest_compared(length: int | None, config: LeakConfig) -> float:
    """Characters up to which a text is compared with evaluation texts of at most `length`; 0 where there are none."""
    return (length or 0) * LONGER / config.threshold


class EvaluationIndex:
    """An index of evaluation texts: equal ones are looked up by key, near ones by band and then compared exactly.

    `longest` is `longest_compared` of all evaluation texts, where `rows` are some of them.
    """

    def __init__(self, rows: pa.Table, config: LeakConfig, longest: float | None = None) -> None:
        order = [("origin", "descending"), ("key", "ascending")]
        self.rows, self.config = rows.sort_by(order).combine_chunks(), config
        self.keys = self.rows["key"].to_numpy()
        self.order = np.argsort(self.keys, kind="stable")
        length = pc.max(pc.utf8_length(self.rows["text"])).as_py()
        self.longest = longest_compared(length, config) if longest is None else longest

    def equal(self, keys: Hashes) -> Numbers:
        """Rows [N] whose text has the given keys; -1 for none."""
        index = np.searchsorted(self.keys, keys, sorter=self.order)
        row = np.append(self.order, 0)[index]
        same = (index < len(self.keys)) & (self.keys[row] == keys) if len(self.keys) else np.zeros(len(keys), bool)
        return np.where(same, row, -1)

    @cached_property
    def _bands(self) -> tuple[Numbers, Hashes, Numbers]:
        """Rows [M] that have bands, and by band their sorted keys [b, M] with the rows [b, M] of these keys."""
        usable = np.flatnonzero(self.rows["bands"].is_valid().to_numpy())
        flat = pc.list_flatten(self.rows["bands"]).to_numpy().reshape(len(usable), self.config.bands)
        order = np.argsort(flat, axis=0, kind="stable")
        return usable, np.take_along_axis(flat, order, axis=0).T.copy(), order.T.copy()

    def near(self, texts: pa.Array) -> Numbers:
        """Rows [N] that are near duplicates of texts, the nearest of each; -1 for none."""
        best = np.full(len(texts), -1)
        short = np.flatnonzero(pc.less_equal(pc.utf8_length(texts), self.longest).to_numpy(zero_copy_only=False))
        if len(self.rows) == 0 or len(short) == 0 or not self.config.near:
            return best
        candidates = texts.take(pa.array(short))
        pairs = self._pairs(candidates)
        text_rows, text_index = np.unique(pairs[:, 0], return_inverse=True)
        evaluation_rows, evaluation_index = np.unique(pairs[:, 1], return_inverse=True)
        left = shingle(candidates.take(pa.array(text_rows)), self.config.words)
        right = shingle(self.rows["text"].take(pa.array(evaluation_rows)), self.config.words)
        score = jaccard(left, right, np.stack([text_index, evaluation_index], axis=1))
        near = np.flatnonzero(score >= self.config.threshold)
        for pair in near[np.lexsort((-pairs[near, 1], score[near]))]:  # the best comes last and stays
            best[short[pairs[pair, 0]]] = pairs[pair, 1]
        return best

    def _pairs(self, texts: pa.Array) -> Numbers:
        """Candidate pairs [P, 2]: index of a text, row of an evaluation text."""
        usable, keys, order = self._bands
        sketches = sketch(texts, self.config)
        bits, pairs = self.rows["bits"].to_numpy(), [np.zeros((0, 2), np.int64)]
        for band in range(self.config.bands if len(usable) else 0):
            low = np.searchsorted(keys[band], sketches.keys[sketches.rows, band], "left")
            high = np.searchsorted(keys[band], sketches.keys[sketches.rows, band], "right")
            counts = np.minimum(high - low, SAME_BAND)
            text = np.repeat(sketches.rows, counts)
            row = usable[order[band][expand_ranges(low, counts)]]
            near = may_be_near(sketches.bits[text], bits[row], self.config)
            pairs.append(np.stack([text[near], row[near]], axis=1))
        return np.unique(np.concatenate(pairs), axis=0)


def find_leaks(
    left: pa.ChunkedArray,
    right: pa.ChunkedArray,
    queries: EvaluationIndex,
    pairs: EvaluationIndex,
    relevant: Hashes,
    near: Hashes | None = None,
) -> tuple[list[str | None], list[str]]:
    """Reason of each training row [N] that leaks, None for the others, and the text that each repeats.

    `relevant` are the sorted keys (`pair_keys`) of evaluation queries with their relevant documents, `near` the sorted
    keys of the texts that may have near duplicates among the evaluation texts; None for any.
    """
    ends = [_looked_up(side, queries, near) for side in (left, right)]
    (left_keys, left_equal, left_near), (right_keys, right_equal, right_near) = ends
    both = joined_pair(left, right) if len(pairs.rows) else pa.array([""] * len(left), pa.string())
    _, both_equal, both_near = _looked_up(both, pairs, near)
    orders = [(left_keys, right_keys), (right_keys, left_keys)]
    judged_relevant = np.any([np.isin(pair_keys(*order), relevant) for order in orders], axis=0)
    either = np.where(left_equal >= 0, left_equal, right_equal)
    leaks = [
        ("leaked_judgment", np.where(judged_relevant, either, -1), queries),
        ("leaked_query", left_equal, queries),
        ("query_as_positive", right_equal, queries),
        ("leaked_labelled_pair", both_equal, pairs),
        ("near_leaked_query", left_near, queries),
        ("near_query_as_positive", right_near, queries),
        ("near_leaked_labelled_pair", both_near, pairs),
    ]
    reasons: list[str | None] = [None] * len(left)
    repeats = [""] * len(left)
    for reason, rows, index in reversed(leaks):
        for row in np.flatnonzero(rows >= 0):
            repeated = index.rows.slice(int(rows[row]), 1).to_pylist()[0]
            reasons[row], repeats[row] = reason, f"'{repeated['text'][:80]}' of {repeated['origin']}"
    return reasons, repeats


def _looked_up(
    texts: pa.Array | pa.ChunkedArray, index: EvaluationIndex, near: Hashes | None
) -> tuple[Hashes, Numbers, Numbers]:
    """Keys of texts [N], the rows that equal them and the rows that are near; each distinct text is looked up once."""
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    encoded = array.dictionary_encode()
    code = encoded.indices.to_numpy()
    keys = text_keys(encoded.dictionary)
    may_be = np.arange(len(keys)) if near is None else np.flatnonzero(np.isin(keys, near))
    nearest = np.full(len(keys), -1)
    nearest[may_be] = index.near(encoded.dictionary.take(pa.array(may_be)))
    return keys[code], index.equal(keys)[code], nearest[code]
