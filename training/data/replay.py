"""Replay: batches of another corpus among those of a run's own, so that training does not forget it.

A global batch is of one of the two. Negatives from another domain are easy and teach nothing, so a mixed batch would
lose the replayed share of its negatives; and two corpora that hold the same document under two ids never meet in one,
so nothing known to be right becomes a negative. Batches are equally big: a share of the batches is that share of the
rows. Each epoch replays other rows; where it wants more than there are, they come again in another order.
Source: experience replay (Rolnick et al. 2019, arXiv 1811.11682).
"""

from dataclasses import replace
from typing import Literal

import pyarrow as pa
from pydantic import Field

from pipeline.building.corpus_reference import CorpusReference
from pipeline.storage.artifact import Artifact
from training.data.epoch import REPLAY
from training.data.read_rows import clusters, read_table, relevant, sampled
from training.data.rows import Rows, rows_from

SCOPE = "replay\t"  # goes before the ids of replayed rows: two artifacts may use the same


class Replay(CorpusReference):
    """Another corpus to train on besides, at a fixed share of the rows."""

    share: float = Field(0.2, gt=0, lt=1, description="of all rows of an epoch that are replayed")
    rows: list[Literal["pairs", "triplets", "judged", "labelled"]] = Field(["pairs"], min_length=1)
    max_rows: int | None = Field(None, ge=2, description="replay from a stable sample of this many rows")


def load_mixed(own: pa.Table, data: Artifact, replay: Replay, other: Artifact, max_negatives: int | None) -> Rows:
    """Rows of a run's own table and of the replayed artifact behind them, in two streams."""
    again = scoped(sampled(read_table(list(replay.rows), other, None), replay.max_rows))
    table = pa.concat_tables([own, again], promote_options="default")
    known = relevant(data) | {SCOPE + q: [SCOPE + d for d in found] for q, found in relevant(other).items()}
    near = clusters(data) | {SCOPE + d: SCOPE + cluster for d, cluster in clusters(other).items()}
    return replace(rows_from(table, known, max_negatives, near), stream=[""] * len(own) + [REPLAY] * len(again))


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
