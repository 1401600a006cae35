"""How long a run trains and how often it validates where its recipe leaves that open, by the number of its rows.

With N training rows, whole epochs or not, a run sees the most of these numbers of rows, but no row more than 10 times:

| rows seen             | decides for                      | why                                                      |
|-----------------------|----------------------------------|----------------------------------------------------------|
| 3 N, at most 4,096    | N below about 2,600              | few rows: one pass leaves the model nearly as it was     |
| 80 sqrt(N)            | N from about 2,600 on            | a pretrained encoder learns a domain from its first rows |
| 64 batches, at most N | batches of hundreds or thousands | fewer optimiser steps than that hardly move the weights  |

So 500 rows are seen 3.7 times and 10,000 rows 0.8 times; of a million rows 80,000 are seen, which is said, since
`loop.epochs: 1` sees them all. `scripts/bench/README.md` has what the rule gives beside recipes made by hand.

A validation costs a forward pass over its sample, a row about three over each of its texts, so the validations, the one
before the first step included, are as many as a tenth of that pays, at most 4, and none where it does not pay two.
"""

import math
from typing import Any, TypeVar

from pipeline.core.progress import say
from pipeline.storage.artifact import Artifact
from training.loop.step import LoopConfig
from training.run.config import TrainingConfig
from training.run.row_kinds import count_rows

C = TypeVar("C", bound=TrainingConfig)

FEW_PASSES, FEW_SEEN = 3, 4_096
SEEN_BY_ROOT = 80  # rows seen for each unit of the square root of the rows there are
LEAST_STEPS, MOST_PASSES = 64, 10
MOST_VALIDATIONS, VALIDATION_SHARE = 4, 0.1
PASSES_OF_A_STEP = 3  # a backward pass costs two forward ones


def settle_loop(config: C, data: Artifact, negatives: Artifact | None) -> C:
    """Settings with the length and the validations of the loop decided; says what was decided here.

    Raises nothing: a recipe's own settings stay as they are. `max_steps` alone decides the length too, in as many
    epochs as it takes; with `refresh` the epochs are enough for one more mining, with `patience` there are validations.
    """
    loop = config.loop
    rows = max(1, count_rows(config, data, negatives))
    open_length = loop.epochs is None and loop.max_steps is None
    decisions: dict[str, Any] = {}
    if loop.epochs is None:
        decisions |= length(rows, loop.batch_size) if open_length else _epochs_of_steps(loop, rows)
        if config.least_epochs > 1:
            decisions |= {"epochs": max(decisions["epochs"], config.least_epochs), "max_steps": loop.max_steps}
    if loop.validations is None:
        seen = rows_seen(loop.model_copy(update=decisions), rows)
        affordable = affordable_validations(seen, config.validation_rows(data))
        decisions["validations"] = MOST_VALIDATIONS if loop.patience else affordable
    if not decisions:
        return config
    decided = loop.model_copy(update=decisions)
    if line := _describe(loop, decided, rows):
        say(f"train: {line}")
    return config.model_copy(update={"loop": decided})


def length(rows: int, batch_size: int) -> dict[str, int]:
    """Epochs and steps for a number of training rows: {"epochs": ..., "max_steps": ...}.

    Example:
        length(12_000, 64)  # {"epochs": 1, "max_steps": 137}
    """
    target = max(min(FEW_PASSES * rows, FEW_SEEN), SEEN_BY_ROOT * math.sqrt(rows), min(LEAST_STEPS * batch_size, rows))
    seen = min(target, MOST_PASSES * rows)
    return {"epochs": math.ceil(seen / rows), "max_steps": math.ceil(seen / min(batch_size, rows))}


def affordable_validations(seen: int, cost: int) -> int:
    """Number of validations that a tenth of the training of `seen` rows pays, besides the one before the first step.

    `cost` is the number of rows whose forward pass costs as much as one of them.
    """
    paid = VALIDATION_SHARE * PASSES_OF_A_STEP * seen / max(1, cost)
    return min(MOST_VALIDATIONS, max(0, int(paid) - 1))


def rows_seen(loop: LoopConfig, rows: int) -> int:
    """Rows that a run sees in all, each as often as it comes."""
    steps = math.ceil(rows / loop.batch_size) * (loop.epochs or 1)
    return min(steps, loop.max_steps or steps) * min(loop.batch_size, rows)


def _epochs_of_steps(loop: LoopConfig, rows: int) -> dict[str, int]:
    """As many epochs as a number of steps takes."""
    assert loop.max_steps is not None, "only where steps are given"
    return {"epochs": math.ceil(loop.max_steps / max(1, rows // loop.batch_size))}


def _describe(left_open: LoopConfig, decided: LoopConfig, rows: int) -> str:
    """Say what was decided, and which setting decides otherwise; empty where a recipe had decided all that counts."""
    parts = []
    if left_open.epochs is None and left_open.max_steps is None:
        seen = rows_seen(decided, rows)
        parts.append(
            f"{seen / decided.batch_size:,.0f} steps of {decided.batch_size} rows, {seen / rows:.1f} passes over "
            f"{rows:,} rows (loop.epochs decides otherwise)"
        )
    if left_open.validations is None:
        count = decided.validations
        cost = f"{VALIDATION_SHARE:.0%} of training"
        parts.append(
            f"validates {count} time{'s' if count != 1 else ''} on the way, for at most {cost} (loop.validations)"
            if count
            else f"does not validate on the way, which would cost more than {cost} (loop.validations)"
        )
    return "; ".join(parts)
