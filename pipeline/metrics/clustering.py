"""How well vectors fall into known groups: V-measure of k-means, over several seeds.

V-measure is the harmonic mean of homogeneity (a cluster holds one group) and completeness (a group lies in one
cluster), Rosenberg and Hirschberg 2007.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.metrics.task_metric import TaskMetric

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SEEDS = 5
_MAX_COUNTS = 1 << 23  # counts of contingency tables that are in memory at a time


def assign(vectors: npt.NDArray[np.float32], clusters: int, seeds: Sequence[int] = range(SEEDS)) -> Ints:
    """Clusters [R, N] of vectors [N, D] by k-means, one run a seed."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        runs = [KMeans(clusters, n_init=1, random_state=seed).fit_predict(vectors) for seed in seeds]
    return np.stack(runs).astype(np.int64)


def v_measure(assigned: Ints, labels: Ints, weights: Floats) -> Floats:
    """Mean V-measure over the runs [R, N] against labels [N], for resamples with weights [S, N], [S]."""
    cells = (int(assigned.max()) + 1) * (int(labels.max()) + 1)
    step = max(1, _MAX_COUNTS // cells)
    parts = [
        np.mean([_v_measure_of_run(run, labels, weights[start : start + step]) for run in assigned], axis=0)
        for start in range(0, len(weights), step)
    ]
    return np.concatenate(parts)


def _v_measure_of_run(run: Ints, labels: Ints, weights: Floats) -> Floats:
    rows, columns = int(run.max()) + 1, int(labels.max()) + 1
    cell = run * columns + labels
    cell_of_resample = np.arange(len(weights))[:, None] * (rows * columns) + cell
    counts = np.bincount(cell_of_resample.ravel(), weights.ravel(), minlength=len(weights) * rows * columns)
    joint = counts.reshape(len(weights), rows, columns) / weights.sum(axis=1)[:, None, None]
    of_cluster, of_label = _entropy(joint.sum(axis=2)), _entropy(joint.sum(axis=1))
    mutual = of_cluster + of_label - _entropy(joint.reshape(len(weights), -1))
    homogeneity = np.divide(mutual, of_label, out=np.ones_like(mutual), where=of_label > 0)
    completeness = np.divide(mutual, of_cluster, out=np.ones_like(mutual), where=of_cluster > 0)
    total = homogeneity + completeness
    harmonic: Floats = np.divide(2 * homogeneity * completeness, total, out=np.zeros_like(total), where=total > 0)
    return harmonic


def _entropy(shares: Floats) -> Floats:
    """Entropy [S] of shares [S, K] in nats."""
    positive = np.where(shares > 0, shares, 1.0)
    entropy: Floats = -(shares * np.log(positive)).sum(axis=1)
    return entropy


V_MEASURE = TaskMetric(
    "v_measure",
    "V-measure",
    v_measure,
    headline=4,
    explanation="V-measure: k-means of sampled documents, as many clusters as categories, mean of five seeds.",
)
