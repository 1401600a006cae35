"""Replay: some batches come from another corpus, so that training does not forget it.

A global batch holds rows of one of the two. Negatives from another domain are easy and teach nothing, so a mixed batch
would lose the replayed share of its negatives; and two corpora may hold the same document under two ids, which in a
mixed batch could make a false negative. Batches are equally big: a share of the batches is that share of the rows. Each
epoch replays other rows; if it needs more than there are, they come again in another order.
Source: experience replay (Rolnick et al. 2019, arXiv 1811.11682).
"""

from dataclasses import replace
from typing import Literal

import pyarrow as pa
from pydantic import Field

from pipeline.building.corpus_reference import CorpusReference
from pipeline.storage.artifact import Artifact
from training.data.epoch import REPLAY
from training.data.read_rows import document_clusters, read_table, relevant_documents, sample_rows
from training.data.rows import Rows, rows_from

ID_PREFIX = "replay\t"  # two artifacts may use the same ids


class Replay(CorpusReference):
    """Another corpus that makes up a fixed share of the training rows."""

    share: float = Field(0.2, gt=0, lt=1, description="of all rows of an epoch that are replayed")
    rows: list[Literal["pairs", "triplets", "judged", "labelled"]] = Field(["pairs"], min_length=1)
    max_rows: int | None = Field(None, ge=2, description="replay from a stable sample of this many rows")


def load_with_replay(
    run_rows: pa.Table, data: Artifact, replay: Replay, other: Artifact, max_negatives: int | None
) -> Rows:
    """Rows of the run followed by those of the replayed artifact, in two streams."""
    again = with_id_prefix(sample_rows(read_table(list(replay.rows), other, None), replay.max_rows))
    table = pa.concat_tables([run_rows, again], promote_options="default")
    relevant_ids = relevant_documents(data) | {
        ID_PREFIX + q: [ID_PREFIX + d for d in docs] for q, docs in relevant_documents(other).items()
    }
    near = document_clusters(data) | {
        ID_PREFIX + d: ID_PREFIX + cluster for d, cluster in document_clusters(other).items()
    }
    return replace(
        rows_from(table, relevant_ids, max_negatives, near), stream=[""] * len(run_rows) + [REPLAY] * len(again)
    )


def with_id_prefix(table: pa.Table) -> pa.Table:
    """Prefix the ids of training rows, so that they cannot equal ids of another artifact."""
    for name in ("anchor_id", "positive_id"):
        column = [None if name is None else ID_PREFIX + name for name in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pa.array(column, pa.string()))
    column_index, negatives = table.column_names.index("negatives"), table["negatives"]
    renamed = [
        row
        and [
            negative | {"doc_id": None if negative["doc_id"] is None else ID_PREFIX + negative["doc_id"]}
            for negative in row
        ]
        for row in negatives.to_pylist()
    ]
    return table.set_column(column_index, "negatives", pa.array(renamed, negatives.type))
