"""Scores of triplets: is the anchor nearer to the positive than to each negative, and by how much?"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.metrics.task_metric import TaskMetric

Floats = npt.NDArray[np.float64]


def triplet_margins(positive: Floats, negatives: Sequence[Floats]) -> Floats:
    """Similarities to the positive [N] and to each triplet's negatives (N arrays) into margins [N].

    The margin is taken to the nearest negative: above 0 the anchor is nearer to the positive than to each negative.
    """
    return np.array([p - n.max() for p, n in zip(positive, negatives, strict=True)], dtype=np.float64)


def triplet_correct(margins: Floats) -> Floats:
    """1 where a margin [N] is above 0, else 0, [N]; a tie is not nearer. Its mean is the triplet accuracy."""
    return (margins > 0).astype(np.float64)


def margin(margins: Floats) -> Floats:
    """Return margins [N] as they are; their mean is the mean margin."""
    return margins


TRIPLET_ACCURACY = TaskMetric(
    "triplet_accuracy",
    "Triplet accuracy",
    triplet_correct,
    headline=3,
    explanation="Triplet accuracy: share of triplets whose anchor is nearer to the positive than to each negative. The "
    "margin is the cosine of the positive less that of the nearest negative.",
)
MEAN_MARGIN = TaskMetric("mean_margin", "Mean margin", margin)
