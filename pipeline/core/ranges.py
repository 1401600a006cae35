"""Ranges of numbers laid end to end: what joins, ragged lists and look-ups by sorted keys are made of."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def expand_ranges(first: Ints, counts: Ints) -> Ints:
    """Numbers of n ranges, one after the other: `counts[i]` of them from `first[i]` on, [sum of counts].

    >>> expand_ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    numbers: Ints = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    return numbers
