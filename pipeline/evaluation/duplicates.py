"""Duplicate detection as paraphrase mining: the nearest pairs of a set of texts, ranked, against known duplicates."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.search.exact import top_k

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
PairStatistic = Callable[[Floats, npt.NDArray[np.bool_], Floats, Floats], Floats]

NEIGHBOURS, MAX_PAIRS = 50, 20_000  # of a text, and in all


@dataclass(frozen=True)
class MinedPairs:
    """Pairs of N texts by falling cosine [P], which of them are known duplicates, and all known duplicates [K, 2]."""

    texts: int
    first: Ints
    second: Ints
    scores: Floats
    is_duplicate: npt.NDArray[np.bool_]
    duplicates: Ints

    def score(self, statistic: PairStatistic, weights: Floats) -> Floats:
        """Score the ranking [S] in resamples of the texts with weights [S, N]; duplicates not mined count as missed.

        A pair counts as often as both of its texts do.
        """
        pair_weights = weights[:, self.first] * weights[:, self.second]
        total: Floats = (weights[:, self.duplicates[:, 0]] * weights[:, self.duplicates[:, 1]]).sum(axis=1)
        return statistic(self.scores, self.is_duplicate, pair_weights, total)


def mine_pairs(
    vectors: npt.NDArray[np.float32],
    duplicates: Iterable[tuple[int, int]],
    neighbours: int = NEIGHBOURS,
    max_pairs: int = MAX_PAIRS,
) -> MinedPairs:
    """Rank the pairs of texts with unit vectors [N, D]: each text with its nearest, the best `max_pairs` of all."""
    known_pairs = np.unique(np.sort(np.array(list(duplicates), np.int64).reshape(-1, 2), axis=1), axis=0)
    known_pairs = known_pairs[known_pairs[:, 0] != known_pairs[:, 1]]
    itself = np.arange(len(vectors))
    scores, rows = top_k(vectors, [vectors], min(neighbours, len(vectors) - 1), excluded=(itself, itself))
    pairs = np.sort(np.stack([np.repeat(itself, rows.shape[1]), rows.ravel()], axis=1), axis=1)
    filled = rows.ravel() >= 0
    pairs, first = np.unique(pairs[filled], axis=0, return_index=True)
    cosines = scores.ravel()[filled][first].astype(np.float64)
    best = np.lexsort((pairs[:, 1], pairs[:, 0], -cosines))[:max_pairs]
    known_set = {(int(a), int(b)) for a, b in known_pairs}
    is_duplicate = np.array([(int(a), int(b)) in known_set for a, b in pairs[best]], bool)
    return MinedPairs(len(vectors), pairs[best, 0], pairs[best, 1], cosines[best], is_duplicate, known_pairs)
