"""Duplicate detection as mining: all near pairs of a set of texts, ranked, against the pairs that are known."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.metrics.pair_scores import average_precision, best_f1
from pipeline.search.exact import top_k

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NEIGHBOURS, PAIRS = 50, 20_000  # of a text, and in all


@dataclass(frozen=True)
class Mined:
    """Pairs of N texts by falling cosine [P], whether each is known to be right, and all known pairs [K, 2]."""

    texts: int
    left: Ints
    right: Ints
    scores: Floats
    known: npt.NDArray[np.bool_]
    wanted: Ints

    def average_precision(self, weights: Floats) -> Floats:
        """Average precision for resamples of the texts with weights [S, N]; pairs not found count as missed."""
        return average_precision(self.scores, self.known, self._pairs(weights), self._wanted(weights))

    def best_f1(self, weights: Floats) -> Floats:
        """Best F1 likewise."""
        return best_f1(self.scores, self.known, self._pairs(weights), self._wanted(weights))

    def _pairs(self, weights: Floats) -> Floats:
        return weights[:, self.left] * weights[:, self.right]

    def _wanted(self, weights: Floats) -> Floats:
        found: Floats = (weights[:, self.wanted[:, 0]] * weights[:, self.wanted[:, 1]]).sum(axis=1)
        return found


def mine(
    vectors: npt.NDArray[np.float32],
    duplicates: Iterable[tuple[int, int]],
    neighbours: int = NEIGHBOURS,
    most: int = PAIRS,
) -> Mined:
    """Rank the pairs of texts with unit vectors [N, D]: each with its nearest, the best `most` of all."""
    wanted = np.unique(np.sort(np.array(list(duplicates), np.int64).reshape(-1, 2), axis=1), axis=0)
    wanted = wanted[wanted[:, 0] != wanted[:, 1]]
    itself = np.arange(len(vectors))
    scores, rows = top_k(vectors, [vectors], min(neighbours, len(vectors) - 1), barred=(itself, itself))
    pairs = np.sort(np.stack([np.repeat(itself, rows.shape[1]), rows.ravel()], axis=1), axis=1)
    held = rows.ravel() >= 0
    pairs, first = np.unique(pairs[held], axis=0, return_index=True)
    found = scores.ravel()[held][first].astype(np.float64)
    best = np.lexsort((pairs[:, 1], pairs[:, 0], -found))[:most]
    known = {(int(a), int(b)) for a, b in wanted}
    left, right = pairs[best, 0], pairs[best, 1]
    is_known = np.array([(int(a), int(b)) in known for a, b in zip(left, right, strict=True)], bool)
    return Mined(len(vectors), left, right, found[best], is_known, wanted)
