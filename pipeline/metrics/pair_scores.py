"""What is measured of scored pairs: average precision, best F1 and accuracy with their thresholds, correlations.

Every statistic takes weights [S, N] too, how often each pair counts in each of S resamples, so that a bootstrap sorts
once instead of S times; with weights of 1 it is the plain figure. Weighted or repeated, a pair counts the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def ones(pairs: int) -> Floats:
    """Weights [1, N] of the sample as it is."""
    return np.ones((1, pairs))


@dataclass(frozen=True)
class Cuts:
    """At each of C cuts between different scores, highest first: right pairs and all pairs above it, [S, C]."""

    right: Floats
    taken: Floats
    scores: Floats  # [C] lowest score above the cut

    @classmethod
    def of(cls, scores: Floats, right: Bools, weights: Floats) -> "Cuts":
        """Cut pairs with scores [N] of which some are right [N]."""
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        held = weights[:, order]
        above = np.cumsum(held * right[order], axis=1)[:, ends]
        return cls(above, np.cumsum(held, axis=1)[:, ends], scores[order][ends])


def average_precision(scores: Floats, right: Bools, weights: Floats, total: Floats | None = None) -> Floats:
    """Sum of precision times gain in recall over the cuts, [S]; as scikit-learn has it.

    `total` [S] counts the right pairs where not all of them were scored.
    """
    cuts = Cuts.of(scores, right, weights)
    precision = cuts.right / np.maximum(cuts.taken, 1)
    gained = np.diff(cuts.right, axis=1, prepend=0)
    return _share((precision * gained).sum(axis=1), cuts.right[:, -1] if total is None else total)


def best_f1(scores: Floats, right: Bools, weights: Floats, total: Floats | None = None) -> Floats:
    """Best F1 over all cuts, [S]."""
    cuts = Cuts.of(scores, right, weights)
    wanted = cuts.right[:, -1] if total is None else total
    found: Floats = _share(2 * cuts.right, cuts.taken + wanted[:, None]).max(axis=1)
    return found


def best_accuracy(scores: Floats, right: Bools, weights: Floats) -> Floats:
    """Best accuracy over all cuts, [S]; calling no pair right is a cut too."""
    cuts = Cuts.of(scores, right, weights)
    wrong = cuts.taken[:, -1:] - cuts.right[:, -1:]
    correct = cuts.right + wrong - (cuts.taken - cuts.right)
    return _share(np.maximum(correct.max(axis=1), wrong[:, 0]), cuts.taken[:, -1])


def f1_cut(scores: Floats, right: Bools, total: int | None = None) -> dict[str, float]:
    """F1 at its best cut, with precision, recall and the threshold: midway to the next lower score."""
    cuts = Cuts.of(scores, right, ones(len(scores)))
    above, taken = cuts.right[0], cuts.taken[0]
    wanted = above[-1] if total is None else total
    f1 = 2 * above / (taken + wanted)
    best = int(np.argmax(f1))
    return {
        "f1": float(f1[best]),
        "f1_precision": float(above[best] / taken[best]),
        "f1_recall": float(above[best] / wanted) if wanted else 0.0,
        "f1_threshold": midway(cuts.scores, best),
    }


def accuracy_cut(scores: Floats, right: Bools) -> dict[str, float]:
    """Accuracy at its best cut, and the threshold; above every score where it is best to call no pair right."""
    cuts = Cuts.of(scores, right, ones(len(scores)))
    wrong = cuts.taken[0, -1] - cuts.right[0, -1]
    correct = np.append(wrong, cuts.right[0] + wrong - (cuts.taken[0] - cuts.right[0]))
    best = int(np.argmax(correct))
    threshold = midway(cuts.scores, best - 1) if best else float(np.nextafter(cuts.scores[0], np.inf))
    return {"accuracy": float(correct[best] / len(scores)), "accuracy_threshold": threshold}


def midway(scores: Floats, cut: int) -> float:
    """Threshold of a cut: midway to the next lower score, or the lowest score itself."""
    return float(scores[cut] if cut == len(scores) - 1 else (scores[cut] + scores[cut + 1]) / 2)


def pearson(scores: Floats, gold: Floats, weights: Floats) -> Floats:
    """Pearson's correlation of scores [N] with gold [N], [S]; 0 where either does not vary."""
    return _correlation(scores[None], gold[None], weights)


def spearman(scores: Floats, gold: Floats, weights: Floats) -> Floats:
    """Spearman's rank correlation of scores [N] with gold [N], [S]: Pearson's of average ranks."""
    return _correlation(ranks(scores, weights), ranks(gold, weights), weights)


def ranks(values: Floats, weights: Floats) -> Floats:
    """Average rank [S, N] of each value among the resample; equal values share theirs."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(values[order]) != 0))
    group = np.cumsum(np.isin(np.arange(len(values)), starts)) - 1
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(held, axis=1) - held + (held + 1) / 2
    found = np.empty((len(weights), len(values)))
    found[:, order] = middle[:, group]
    return found


def _correlation(left: Floats, right: Floats, weights: Floats) -> Floats:
    """Weighted correlation of left and right, each [S or 1, N], [S]."""
    total = weights.sum(axis=1, keepdims=True)
    a = left - (weights * left).sum(axis=1, keepdims=True) / total
    b = right - (weights * right).sum(axis=1, keepdims=True) / total
    covariance = (weights * a * b).sum(axis=1)
    return _share(covariance, np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)))


def _share(part: Floats, whole: Floats) -> Floats:
    """Quotient, 0 where the whole is 0."""
    found: Floats = np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole != 0)
    return found


def varies(values: Floats) -> bool:
    """Whether a correlation with these values means anything."""
    return len(values) > 1 and bool(np.ptp(values) > 0)


def named(figures: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Figures under names with a prefix."""
    return {f"{prefix}_{name}": value for name, value in figures.items()}
