"""Whether a difference is more than chance: paired permutation test, Holm's correction, bootstrap interval.

All three are seeded, so a report made twice shows the same numbers.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SAMPLES = 10_000
_MAX_NUMBERS = 1 << 22  # random numbers that are in memory at a time


def permutation_test(ours: Floats, theirs: Floats, samples: int = SAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of the mean paired difference of values [N], [N] under random swaps within the pairs.

    Fisher's randomisation test as used for retrieval (Smucker, Allan and Carterette, CIKM 2007): swapping a pair flips
    the sign of its difference. p = (b + 1) / (samples + 1) with b the samples at least as extreme as what was seen,
    which is never 0 and keeps the test's level (Phipson and Smyth 2010).
    """
    differences = ours - theirs
    differences = differences[differences != 0]  # a flip of 0 changes nothing
    if not len(differences):
        return 1.0
    observed = abs(differences.sum())
    slack = 1e-12 * np.abs(differences).sum()
    rng, extreme = np.random.default_rng(seed), 0
    for rows in _portions(samples, len(differences)):
        flips = rng.integers(0, 2, size=(rows, len(differences)), dtype=np.int8)
        sums = 2 * (flips @ differences) - differences.sum()
        extreme += int(np.count_nonzero(np.abs(sums) >= observed - slack))
    return (extreme + 1) / (samples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of one family of tests by Holm's step-down method (1979), in input order."""
    order = np.argsort(p_values, kind="stable")
    corrected, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = floor
    return corrected


def bootstrap_interval(
    values: Floats, samples: int = SAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of values [N], N >= 1."""
    rng = np.random.default_rng(seed)
    means = [
        values[rng.integers(0, len(values), size=(rows, len(values)))].mean(axis=1)
        for rows in _portions(samples, len(values))
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def detectable_difference(differences: Floats) -> float:
    """Smallest true mean difference that a two-sided paired test at .05 finds in four of five samples of N pairs.

    (1.96 + 0.84) standard errors of the differences [N] that were seen, the usual approximation by the normal
    distribution (Cohen 1988; for retrieval Sakai 2016). 0 of fewer than two pairs and of pairs that all differ alike.
    """
    if len(differences) < 2:
        return 0.0
    return float((1.959964 + 0.841621) * differences.std(ddof=1) / np.sqrt(len(differences)))


def _portions(samples: int, width: int) -> Iterator[int]:
    """Cut `samples` rows of `width` numbers into portions that fit in memory."""
    step = max(1, _MAX_NUMBERS // max(1, width))
    for start in range(0, samples, step):
        yield min(step, samples - start)


def resamples(units: int, samples: int, seed: int = 0, width: int = 0) -> Iterator[Floats]:
    """How often each of N units is drawn in each bootstrap sample, in portions [s, N]; the same for every caller.

    `width` is how many numbers a caller makes of a sample, where that is more than N: it keeps portions small.
    """
    rng = np.random.default_rng(seed)
    for rows in _portions(samples, max(units, width)):
        units_drawn = rng.integers(0, units, size=(rows, units)) + np.arange(rows)[:, None] * units
        yield np.bincount(units_drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)


def percentiles(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a bootstrapped statistic [S]."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_p(differences: Floats) -> float:
    """Two-sided p-value of a difference from its bootstrap samples [S], paired by resample: how often it is not there.

    Twice the smaller share of samples on either side of 0, never 0 (Efron and Tibshirani 1993, ch. 15). For statistics
    that are not means over units (correlations, F1, V-measure), where signs cannot be flipped.
    """
    beyond = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return float(min(1.0, 2 * (beyond + 1) / (len(differences) + 1)))
