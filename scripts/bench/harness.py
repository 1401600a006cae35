"""Measurements in turns, so that what else a machine does falls on all sides alike."""

import statistics
from collections.abc import Callable, Sequence


def medians(repeats: int, jobs: Sequence[Callable[[], dict[str, float]]]) -> list[dict[str, float]]:
    """Do all jobs, one after the other, `repeats` times; the median of each figure, by job."""
    found = [[job() for job in jobs] for _ in range(repeats)]
    return [
        {key: statistics.median(turn[place][key] for turn in found) for key in found[0][place]}
        for place in range(len(jobs))
    ]
