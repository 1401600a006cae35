"""What the log of a training says of its time."""

from collections.abc import Mapping, Sequence
from typing import Any


def seconds_of_steps(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of all training steps, by the rows of a metrics file; validations and the start are not in it."""
    seconds, before = 0.0, 0
    for row in rows:
        if "seconds_per_step" in row:
            seconds += max(0, row["step"] - before) * row["seconds_per_step"]
            before = row["step"]
    return seconds
