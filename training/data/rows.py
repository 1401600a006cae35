"""Training rows in memory: texts, 64-bit ids for batches and masks, and the scores that graded losses need."""

import builtins
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.text.normalize import stable_id
from training.data.batching import Floats, Ints
from training.data.guide_vectors import Guide


@dataclass(frozen=True)
class Rows:
    """Training rows in memory: texts, 64-bit ids for masks and batches, and the scores that graded losses need.

    `relevant_id` are the documents known to be relevant to the row's query (its own positive among them), in order of
    ids, any number of them; `relevant_cluster` their near-duplicate clusters. Lists hold one array a row, and the rows
    of one query share it.
    """

    anchors: list[str]
    positives: list[str]
    negatives: list[list[str]]
    query_id: Ints
    positive_id: Ints
    negative_id: list[Ints]
    relevant_id: list[Ints]
    label: Ints | None = None  # [n] class of the row
    score: Floats | None = None  # [n] similarity or judged relevance of anchor and positive
    weight: Floats | None = None  # [n]
    teacher: Floats | None = None  # [n] a teacher's score of anchor and positive, NaN for none
    negative_score: list[Floats] | None = None
    negative_teacher: list[Floats] | None = None
    positive_cluster: Ints | None = None  # [n]
    negative_cluster: list[Ints] | None = None
    relevant_cluster: list[Ints] | None = None
    share: Floats | None = None  # [n] how often an epoch trains on the row, by its source; once where None
    guide: Guide | None = None
    source: list[str] | None = None
    stream: list[str] | None = None  # rows of two streams never share a batch; all may where None
    table: list[str] | None = None  # where the texts came from: the name of a table
    table_row: Ints | None = None  # and the row of it

    def __len__(self) -> int:
        return len(self.anchors)

    def slice(self, rows: builtins.slice) -> "Rows":
        """Some of the rows."""
        return Rows(**{field.name: _slice(getattr(self, field.name), rows) for field in fields(self)})


def _slice(value: Any, rows: slice) -> Any:
    return value.slice(rows) if isinstance(value, Guide) else value if value is None else value[rows]


def rows_from(
    table: pa.Table,
    relevant: dict[str, list[str]],
    num_negatives: int | None = None,
    clusters: Mapping[str, str] | None = None,
    mix: Mapping[str, float] | None = None,
    same_text: Mapping[str, Collection[str]] | None = None,
) -> Rows:
    """Make rows of a table of pairs, triplets, judged or labelled rows.

    `relevant` maps a query id to every document id known to be relevant to it; so are the documents that have the
    anchor's own text: nothing is a negative of itself. Where the table has a column `right`, the document of a row
    whose `right` is false is not known to be relevant.
    `num_negatives` limits the negatives of a row; `clusters` maps a document id to its near-duplicate cluster;
    `mix` says how often an epoch trains on the rows of a source; `same_text` maps a query to the documents that have
    its text, where the table does not hold them all.
    Optional columns: relevance, grades and teacher (of the positive), negatives[].score (the teacher's),
    label, weight.
    """
    anchor_ids, positive_ids = table["anchor_id"].to_pylist(), table["positive_id"].to_pylist()
    negatives = [(row or [])[:num_negatives] for row in _optional(table, "negatives") or [None] * len(table)]
    negative_ids = [[n["doc_id"] for n in row] for row in negatives]
    same: Mapping[str, Collection[str]] = (
        _documents_with_anchor_text(table, negatives) if same_text is None else same_text
    )
    relevant_documents = _relevant_documents(anchor_ids, positive_ids, _optional(table, "right"), relevant, same)
    relevant_ids = {query: np.unique(_ids(docs)) for query, docs in relevant_documents.items()}
    return Rows(
        anchors=table["anchor"].to_pylist(),
        positives=table["positive"].to_pylist(),
        negatives=[[n["text"] for n in row] for row in negatives],
        query_id=_ids(anchor_ids),
        positive_id=_ids(positive_ids),
        negative_id=[_ids(row) for row in negative_ids],
        relevant_id=[relevant_ids[query] for query in anchor_ids],
        label=_ids([str(label) for label in table["label"].to_pylist()]) if "label" in table.column_names else None,
        score=_numbers(_optional(table, "relevance")),
        weight=_numbers(_optional(table, "weight"), missing=1.0),
        teacher=_numbers(_optional(table, "teacher")),
        negative_score=_ragged_numbers(_optional(table, "grades"), negative_ids, 0.0),
        negative_teacher=_ragged_numbers([[n.get("score") for n in row] for row in negatives], negative_ids, np.nan),
        positive_cluster=_ids([clusters.get(doc) for doc in positive_ids]) if clusters else None,
        negative_cluster=[_ids([clusters.get(doc) for doc in row]) for row in negative_ids] if clusters else None,
        relevant_cluster=_clusters_by_query(anchor_ids, relevant_documents, clusters) if clusters else None,
        share=np.array([mix.get(source, 1.0) for source in table["source"].to_pylist()]) if mix else None,
        source=_optional(table, "source"),
        table=_optional(table, "table"),
        table_row=table["table_row"].to_numpy() if "table_row" in table.column_names else None,
    )


def _relevant_documents(
    anchors: list[str],
    positives: list[str],
    right: list[bool] | None,
    relevant: Mapping[str, Collection[str]],
    same_text: Mapping[str, Collection[str]],
) -> dict[str, set[str]]:
    """Documents known to be relevant to each query of the rows."""
    documents = {query: {*relevant.get(query, ()), *same_text.get(query, ())} for query in dict.fromkeys(anchors)}
    counts = [True] * len(anchors) if right is None else [value is not False for value in right]
    for query, positive, counted in zip(anchors, positives, counts, strict=True):
        if counted:
            documents[query].add(positive)
    return documents


def _clusters_by_query(anchors: list[str], relevant: Mapping[str, set[str]], clusters: Mapping[str, str]) -> list[Ints]:
    """Near-duplicate clusters of the documents that are relevant to the query of each row."""
    named = {query: {clusters[doc] for doc in docs if doc in clusters} for query, docs in relevant.items()}
    ids = {query: np.unique(_ids(sorted(names))) for query, names in named.items()}
    return [ids[query] for query in anchors]


def _documents_with_anchor_text(table: pa.Table, negatives: list[list[dict[str, Any]]]) -> dict[str, set[str]]:
    """Documents of the table that have the text of each query."""
    anchors = table["anchor"].to_pylist()
    documents: dict[str, set[str]] = {text: set() for text in anchors}
    for doc, text in zip(table["positive_id"].to_pylist(), table["positive"].to_pylist(), strict=True):
        if text in documents:
            documents[text].add(doc)
    for negative in (negative for row in negatives for negative in row):
        if negative["text"] in documents:
            documents[negative["text"]].add(negative["doc_id"])
    by_query: dict[str, set[str]] = {}
    for query, text in zip(table["anchor_id"].to_pylist(), anchors, strict=True):
        by_query.setdefault(query, set()).update(documents[text])
    return by_query


def _optional(table: pa.Table, column: str) -> list[Any] | None:
    return table[column].to_pylist() if column in table.column_names else None


def _ids(names: Collection[str | None]) -> Ints:
    return np.array([-1 if name is None else stable_id(name) for name in names], dtype=np.int64)


def _numbers(values: Sequence[float | None] | None, missing: float = np.nan) -> Floats | None:
    """Numbers [n] with `missing` for what is None; None where all are."""
    if values is None or all(value is None for value in values):
        return None
    return np.array([missing if value is None else value for value in values], dtype=np.float64)


def _ragged_numbers(values: list[Any] | None, like: list[list[str]], default: float) -> list[Floats] | None:
    """Numbers of the negatives of each row, `default` for what is None; None where all are."""
    if values is None or all(value is None for row in values for value in row or ()):
        return None
    lists = [
        [default if value is None else value for value in (row or [None] * len(names))][: len(names)]
        for row, names in zip(values, like, strict=True)
    ]
    return [np.array(row, dtype=np.float64) for row in lists]
