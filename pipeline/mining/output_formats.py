"""Mined rows in the formats that others train on: Sentence Transformers' columns, FlagEmbedding's JSON lines.

A format is a function of this file's form and one line in registry.py. Every function takes rows with `anchor`,
`positive`, `negatives` (list of structs with text and score) and, where scores are asked for, `positive_score`; tables
`triplets` are such rows. Names and order of columns are Sentence Transformers' own (`mine_hard_negatives`, output
formats triplet, n-tuple, labeled-pair and labeled-list).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.mining.candidate_arrays import Rows, as_array, list_positions


class Convert(Protocol):
    """A function from mined rows to a format's rows."""

    def __call__(self, rows: pa.Table, num_negatives: int, *, scores: bool = False) -> pa.Table:
        """Convert rows [N]; `num_negatives` is for formats that have as many columns."""
        ...


@dataclass(frozen=True)
class OutputFormat:
    """A format by its function, with the words that help shows, and whether files of it are JSON lines or Parquet."""

    convert: Convert
    description: str
    json_lines: bool = False


def triplets(rows: pa.Table, num_negatives: int = 0, *, scores: bool = False) -> pa.Table:
    """One row (anchor, positive, negative) for each negative, in order; rows without a negative give none."""
    flat, row, _ = _negatives(rows)
    table = rows.select(["anchor", "positive"]).take(pa.array(row)).append_column("negative", flat.field("text"))
    if not scores:
        return table
    pairs = np.stack([_positive_scores(rows)[row], _scores(flat)], axis=1).ravel()
    return table.append_column("scores", _lists(pairs, np.full(len(row), 2)))


def n_tuples(rows: pa.Table, num_negatives: int, *, scores: bool = False) -> pa.Table:
    """Rows with at least `num_negatives`, the first ones as columns negative_1 ...; other rows are left out."""
    lengths = pc.list_value_length(rows["negatives"]).to_numpy()
    full = rows.filter(pa.array(lengths >= num_negatives))
    flat, _, position = _negatives(full)
    table = full.select(["anchor", "positive"])
    for number in range(num_negatives):
        at = pa.array(np.flatnonzero(position == number))
        table = table.append_column(f"negative_{number + 1}", flat.field("text").take(at))
    if not scores:
        return table
    negative_scores = _scores(flat)[position < num_negatives].reshape(-1, num_negatives)
    values = np.concatenate([_positive_scores(full)[:, None], negative_scores], axis=1)
    return table.append_column("scores", _lists(values.ravel(), np.full(full.num_rows, num_negatives + 1)))


def labeled_lists(rows: pa.Table, num_negatives: int = 0, *, scores: bool = False) -> pa.Table:
    """Rows with a negative as (anchor, [positive, negatives...], labels 1 and 0, or scores)."""
    mined = rows.filter(pc.greater(pc.list_value_length(rows["negatives"]), 0))
    flat, row, position = _negatives(mined)
    counts = 1 + np.bincount(row, minlength=mined.num_rows)
    first = np.cumsum(counts) - counts
    texts = np.empty(int(counts.sum()), object)
    texts[first] = mined["positive"].to_pylist()
    texts[first[row] + 1 + position] = flat.field("text").to_pylist()
    values = np.zeros(len(texts), np.float64)
    values[first] = _positive_scores(mined) if scores else 1
    values[first[row] + 1 + position] = _scores(flat) if scores else 0
    labels = _lists(values if scores else values.astype(np.int64), counts)
    columns = [mined["anchor"], _lists(pa.array(texts.tolist(), pa.string()), counts), labels]
    return pa.table(columns, names=["anchor", "positive", "scores" if scores else "labels"])


def labeled_pairs(rows: pa.Table, num_negatives: int = 0, *, scores: bool = False) -> pa.Table:
    """Rows (anchor, document, label or score): an anchor's positives, then the negatives of them all, each once."""
    pairs: list[tuple[str, str, Any]] = []
    for anchor, group in _anchors(rows):
        pairs += [(anchor, row["positive"], row.get("positive_score") if scores else 1) for row in group]
        negatives: dict[str, Any] = {}
        for item in (item for row in group for item in row["negatives"]):
            negatives.setdefault(item["text"], item["score"] if scores else 0)
        pairs += [(anchor, text, value) for text, value in negatives.items()]
    columns = [list(column) for column in zip(*pairs, strict=True)] or [[], [], []]
    types = [pa.string(), pa.string(), pa.float64() if scores else pa.int64()]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    return pa.table(arrays, names=["anchor", "positive", "score" if scores else "label"])


def flag_embedding(rows: pa.Table, num_negatives: int = 0, *, scores: bool = False) -> pa.Table:
    """Rows with a negative as FlagEmbedding has them: query, [pos], [neg], and scores wherever they are known."""
    mined = rows.filter(pc.greater(pc.list_value_length(rows["negatives"]), 0))
    flat, row, _ = _negatives(mined)
    counts, ones = np.bincount(row, minlength=mined.num_rows), np.ones(mined.num_rows, np.int64)
    table = pa.table(
        {
            "query": mined["anchor"],
            "pos": _lists(as_array(mined["positive"]), ones),
            "neg": _lists(flat.field("text"), counts),
        }
    )
    if "positive_score" not in rows.column_names:
        return table
    has_score = pc.is_valid(mined["positive_score"])
    positive = _lists(pa.array(mined["positive_score"].to_pylist(), pa.float32()), ones)
    negative = _lists(flat.field("score"), counts)
    for name, column in (("pos_scores", positive), ("neg_scores", negative)):
        table = table.append_column(name, pc.if_else(has_score, column, pa.scalar(None, column.type)))
    return table


def json_lines(table: pa.Table) -> Iterator[bytes]:
    """Rows as lines of JSON, without what is null."""
    for row in table.to_pylist():
        filled = {name: value for name, value in row.items() if value is not None}
        yield json.dumps(filled, ensure_ascii=False).encode() + b"\n"


def _anchors(rows: pa.Table) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rows that follow each other and have the same anchor."""
    group: list[dict[str, Any]] = []
    for row in rows.to_pylist():
        if group and group[0]["anchor"] != row["anchor"]:
            yield group[0]["anchor"], group
            group = []
        group.append(row)
    if group:
        yield group[0]["anchor"], group


def _negatives(rows: pa.Table) -> tuple[pa.StructArray, Rows, Rows]:
    """Negatives of all rows, with the row of each and its position in it."""
    lists = as_array(rows["negatives"])
    row, position, _ = list_positions(lists)
    return lists.flatten(), row, position


def _positive_scores(rows: pa.Table) -> Any:
    return rows["positive_score"].to_numpy().astype(np.float64)


def _scores(flat: pa.StructArray) -> Any:
    return flat.field("score").to_numpy(zero_copy_only=False).astype(np.float64)


def _lists(values: Any, counts: Any) -> pa.ListArray:
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values if isinstance(values, pa.Array) else pa.array(values))
