"""Two rankings of the same queries into one, by mixed scores or by ranks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.search.exact import Rows, TopK

Values = npt.NDArray[np.float64]


def mix_scores(dense: TopK, lexical: TopK, weight: float, k: int) -> TopK:
    """The best k of minmax(dense) + weight x minmax(lexical), over the documents that either ranking holds.

    Scores are scaled query by query to 0 for the lowest of a ranking and 1 for the highest, and a document that one
    ranking lacks counts as its lowest (Lee 1997, CombSUM; weights: Bruch et al. 2023). Ties go by lower row.
    """
    return _best_sums([(dense.rows, min_max(dense)), (lexical.rows, weight * min_max(lexical))], k)


def fuse_ranks(rankings: Sequence[TopK], constant: int, k: int) -> TopK:
    """The best k by reciprocal rank fusion, sums of 1 / (constant + rank) (Cormack et al. 2009); ties by lower row."""
    parts = [(ranking.rows, 1.0 / (constant + 1.0 + np.arange(ranking.rows.shape[1]))) for ranking in rankings]
    return _best_sums([(rows, np.broadcast_to(values, rows.shape)) for rows, values in parts], k)


def min_max(ranking: TopK) -> Values:
    """Scores [Q, k] between 0 and 1, query by query; all 1 where they are equal, since being found says something."""
    ranked = ranking.rows >= 0
    scores = ranking.scores.astype(np.float64)
    high = np.where(ranked, scores, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    low = np.where(ranked, scores, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: Values = np.where(high > low, (scores - low) / (high - low), 1.0)
    return np.where(ranked, scaled, 0.0)


def first(ranking: TopK, k: int) -> TopK:
    """The first k places of a ranking."""
    return TopK(ranking.scores[:, :k], ranking.rows[:, :k])


def _best_sums(parts: Sequence[tuple[Rows, Values]], k: int) -> TopK:
    """Add up the values [Q, n] of each row [Q, n] over all parts, row -1 being none, and keep the best k."""
    rows = np.concatenate([rows for rows, _ in parts], axis=1)
    values = np.concatenate([values for _, values in parts], axis=1)
    query, column = np.nonzero(rows >= 0)
    keys, index = np.unique(query << 32 | rows[query, column], return_inverse=True)
    sums = np.bincount(index, weights=values[query, column], minlength=len(keys))
    owner, row = keys >> 32, keys & 0xFFFFFFFF
    order = np.lexsort((row, -sums, owner))
    owner, row, sums = owner[order], row[order], sums[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    best, inside = TopK.empty(len(rows), k), rank < k
    best.scores[owner[inside], rank[inside]], best.rows[owner[inside], rank[inside]] = sums[inside], row[inside]
    return best
