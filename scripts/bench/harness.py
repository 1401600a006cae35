"""Medians of jobs that are measured in turns, so that other load on the machine slows all of them alike."""

import statistics
from collections.abc import Callable, Sequence


def medians(repeats: int, jobs: Sequence[Callable[[], dict[str, float]]]) -> list[dict[str, float]]:
    """Run all jobs, one after the other, `repeats` times, and return the median of each figure, by job."""
    turns = [[job() for job in jobs] for _ in range(repeats)]
    return [
        {key: statistics.median(turn[number][key] for turn in turns) for key in turns[0][number]}
        for number in range(len(jobs))
    ]
