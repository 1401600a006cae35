"""Replay: batches of another corpus among those of a run's own, so that training does not forget it.

A global batch is of one source. Negatives from another domain are easy and teach nothing, so a mixed batch would lose
the replayed share of its negatives; and two corpora that hold the same document under two ids never meet in one, so
nothing known to be right becomes a negative. Batches are equally big: a share of the batches is that share of the rows.
Source: experience replay (Rolnick et al. 2019, arXiv 1811.11682).
"""

import math
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pydantic import Field

from pipeline.artifact import Artifact
from pipeline.build.made import Made
from pipeline.errors import UserError
from training.batches import Epoch, Ints, Rows, compose, rows_from, stable_id
from training.rows import clusters, read_table, relevant, sampled

SCOPE = "replay\t"  # goes before the ids of replayed rows: two artifacts may use the same


class Replay(Made):
    """Another corpus to train on besides, at a fixed share of the rows."""

    share: float = Field(0.2, gt=0, lt=1, description="of all rows of an epoch that are replayed")
    rows: list[Literal["pairs", "triplets", "judged", "labelled"]] = Field(["pairs"], min_length=1)
    max_rows: int | None = Field(None, ge=2, description="replay from a stable sample of this many rows")


@dataclass(frozen=True)
class Mixed:
    """Composition of an epoch from the run's own rows, each once, and batches of the rows from `start` on between them.

    Pure in (rows, size, seed, epoch) as `batches.compose` is. Each epoch replays other rows; where it wants more than
    there are, they come again in another order.
    """

    start: int
    share: float

    def __call__(self, rows: Rows, size: int, seed: int, epoch: int) -> Epoch:
        """Compose the batches of an epoch, the replayed ones evenly spread; `left_out` are own rows."""
        own = compose(rows, size, seed, epoch, slice(0, self.start))
        ideal = len(own.batches) * self.share / (1 - self.share)
        count = math.floor((epoch + 1) * ideal + 0.5) - math.floor(epoch * ideal + 0.5)
        return Epoch(spread(own.batches, self._replayed(rows, size, seed, epoch, count)), own.left_out)

    def _replayed(self, rows: Rows, size: int, seed: int, epoch: int, count: int) -> list[Ints]:
        """The first `count` full batches of as many passes over the replayed rows as that takes."""
        found: list[Ints] = []
        turn = 0
        while len(found) < count:
            key = stable_id(f"{seed}/replay/{turn}")
            composed = compose(rows, size, key, epoch, slice(self.start, len(rows)))
            full = [batch for batch in composed.batches if len(batch) == size]
            if not full:
                raise UserError(
                    f"replay: {len(rows) - self.start} rows do not fill a batch of {size}; lower loop.batch_size or "
                    "replay a bigger corpus"
                )
            found += full[: count - len(found)]
            turn += 1
        return found


def spread(own: list[Ints], others: list[Ints]) -> list[Ints]:
    """Put the others between a run's own batches at even distances; an own batch comes first where there is one."""
    total, taken = len(own) + len(others), 0
    batches: list[Ints] = []
    for place in range(total):
        if (place + 1) * len(others) // total > taken:
            batches.append(others[taken])
            taken += 1
        else:
            batches.append(own[place - taken])
    return batches


def load_mixed(
    own: pa.Table, data: Artifact, replay: Replay, other: Artifact, max_negatives: int | None
) -> tuple[Rows, Mixed]:
    """Rows of a run's own table and of the replayed artifact behind them, and the composition of both."""
    again = scoped(sampled(read_table(list(replay.rows), other, None), replay.max_rows))
    table = pa.concat_tables([own, again], promote_options="default")
    known = relevant(data) | {SCOPE + q: [SCOPE + d for d in found] for q, found in relevant(other).items()}
    near = clusters(data) | {SCOPE + d: SCOPE + cluster for d, cluster in clusters(other).items()}
    return rows_from(table, known, max_negatives, near), Mixed(len(own), replay.share)


def scoped(table: pa.Table) -> pa.Table:
    """Training rows whose ids cannot be those of another artifact."""
    for name in ("anchor_id", "positive_id"):
        column = [None if one is None else SCOPE + one for one in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pa.array(column, pa.string()))
    place, given = table.column_names.index("negatives"), table["negatives"]
    renamed = [
        row and [one | {"doc_id": None if one["doc_id"] is None else SCOPE + one["doc_id"]} for one in row]
        for row in given.to_pylist()
    ]
    return table.set_column(place, "negatives", pa.array(renamed, given.type))
