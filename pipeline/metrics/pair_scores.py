"""Scores of pairs with a gold score: average precision, best F1 and accuracy with their thresholds, correlations.

Every statistic takes weights [S, N] too, how often each pair counts in each of S resamples, so that a bootstrap sorts
once instead of S times; with weights of 1 it is the plain score. Weighted or repeated, a pair counts the same.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.metrics.task_metric import TaskMetric

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def ones(pairs: int) -> Floats:
    """Weights [1, N] of the sample as it is."""
    return np.ones((1, pairs))


@dataclass(frozen=True)
class ThresholdCounts:
    """True positives and predicted positives [S, C] at each of C thresholds between different scores, highest first."""

    true_positives: Floats
    predicted: Floats
    scores: Floats  # [C] lowest score above the threshold

    @classmethod
    def of(cls, scores: Floats, right: Bools, weights: Floats) -> "ThresholdCounts":
        """Count pairs with scores [N] of which some are right [N]."""
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        sorted_weights = weights[:, order]
        true_positives = np.cumsum(sorted_weights * right[order], axis=1)[:, ends]
        return cls(true_positives, np.cumsum(sorted_weights, axis=1)[:, ends], scores[order][ends])


def average_precision(scores: Floats, right: Bools, weights: Floats, total: Floats | None = None) -> Floats:
    """Sum of precision times gain in recall over the thresholds, [S]; as scikit-learn has it.

    `total` [S] counts the right pairs where not all of them were scored.
    """
    counts = ThresholdCounts.of(scores, right, weights)
    precision = counts.true_positives / np.maximum(counts.predicted, 1)
    gained = np.diff(counts.true_positives, axis=1, prepend=0)
    return _ratio((precision * gained).sum(axis=1), counts.true_positives[:, -1] if total is None else total)


def best_f1(scores: Floats, right: Bools, weights: Floats, total: Floats | None = None) -> Floats:
    """Best F1 over all thresholds, [S]."""
    counts = ThresholdCounts.of(scores, right, weights)
    positives = counts.true_positives[:, -1] if total is None else total
    best: Floats = _ratio(2 * counts.true_positives, counts.predicted + positives[:, None]).max(axis=1)
    return best


def best_accuracy(scores: Floats, right: Bools, weights: Floats) -> Floats:
    """Best accuracy over all thresholds, [S]; calling no pair right is one too."""
    counts = ThresholdCounts.of(scores, right, weights)
    wrong = counts.predicted[:, -1:] - counts.true_positives[:, -1:]
    correct = counts.true_positives + wrong - (counts.predicted - counts.true_positives)
    return _ratio(np.maximum(correct.max(axis=1), wrong[:, 0]), counts.predicted[:, -1])


def f1_at_best_threshold(scores: Floats, right: Bools, total: int | None = None) -> dict[str, float]:
    """Best F1, with its precision, recall and threshold: midway to the next lower score."""
    counts = ThresholdCounts.of(scores, right, ones(len(scores)))
    true_positives, predicted = counts.true_positives[0], counts.predicted[0]
    positives = true_positives[-1] if total is None else total
    f1 = 2 * true_positives / (predicted + positives)
    best = int(np.argmax(f1))
    return {
        "f1": float(f1[best]),
        "f1_precision": float(true_positives[best] / predicted[best]),
        "f1_recall": float(true_positives[best] / positives) if positives else 0.0,
        "f1_threshold": midway(counts.scores, best),
    }


def accuracy_at_best_threshold(scores: Floats, right: Bools) -> dict[str, float]:
    """Best accuracy and its threshold; above every score where it is best to call no pair right."""
    counts = ThresholdCounts.of(scores, right, ones(len(scores)))
    true_positives, predicted = counts.true_positives[0], counts.predicted[0]
    wrong = predicted[-1] - true_positives[-1]
    correct = np.append(wrong, true_positives + wrong - (predicted - true_positives))
    best = int(np.argmax(correct))
    threshold = midway(counts.scores, best - 1) if best else float(np.nextafter(counts.scores[0], np.inf))
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


def spearman_correlation(scores: Floats, gold: Floats) -> float | None:
    """Spearman's rank correlation of model scores [N] with graded gold scores [N]; None where either is constant."""
    if not (varies(scores) and varies(gold)):
        return None
    return float(spearman(scores, gold, ones(len(gold)))[0])


def ranks(values: Floats, weights: Floats) -> Floats:
    """Average rank [S, N] of each value among the resample; equal values share theirs."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(values[order]) != 0))
    group = np.cumsum(np.isin(np.arange(len(values)), starts)) - 1
    group_weights = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(group_weights, axis=1) - group_weights + (group_weights + 1) / 2
    average_ranks = np.empty((len(weights), len(values)))
    average_ranks[:, order] = middle[:, group]
    return average_ranks


def _correlation(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Weighted correlation [S] of x and y, each [S or 1, N]."""
    total = weights.sum(axis=1, keepdims=True)
    a = x - (weights * x).sum(axis=1, keepdims=True) / total
    b = y - (weights * y).sum(axis=1, keepdims=True) / total
    covariance = (weights * a * b).sum(axis=1)
    return _ratio(covariance, np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, 0 where the denominator is 0."""
    zeros = np.zeros_like(numerator, dtype=np.float64)
    quotient: Floats = np.divide(numerator, denominator, out=zeros, where=denominator != 0)
    return quotient


def varies(values: Floats) -> bool:
    """Whether a correlation with these values means anything."""
    return len(values) > 1 and bool(np.ptp(values) > 0)


AVERAGE_PRECISION = TaskMetric(
    "average_precision",
    "Average precision",
    average_precision,
    yes_or_no=True,
    headline=1,
    explanation="Labelled pairs are ranked by cosine; best F1 and accuracy are those of the best threshold, chosen on "
    "these very pairs, so they are upper bounds.",
)
BEST_F1 = TaskMetric("f1", "Best F1", best_f1, yes_or_no=True, threshold="f1_threshold")
BEST_ACCURACY = TaskMetric("accuracy", "Best accuracy", best_accuracy, yes_or_no=True, threshold="accuracy_threshold")
SPEARMAN = TaskMetric("spearman", "Spearman", spearman, headline=2)
PEARSON = TaskMetric("pearson", "Pearson", pearson)
DUPLICATE_AP = TaskMetric("duplicate_average_precision", "Duplicates, AP", average_precision, yes_or_no=True)
DUPLICATE_F1 = TaskMetric(
    "duplicate_f1",
    "Duplicates, best F1",
    best_f1,
    yes_or_no=True,
    threshold="duplicate_f1_threshold",
    explanation="Duplicates: all near pairs of the labelled texts are ranked; one without a label counts as wrong.",
)
