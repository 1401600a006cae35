"""Mined rows in the shapes that others train on: Sentence Transformers' columns, FlagEmbedding's JSON lines.

Every function takes rows with `anchor`, `positive`, `negatives` (list of structs with text and score) and, where scores
are wanted, `positive_score`; tables `triplets` are such rows. Names and order of columns are Sentence Transformers' own
(`mine_hard_negatives`, output formats triplet, n-tuple, labeled-pair and labeled-list).
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.mining.candidate_arrays import Rows, spread, whole

COLUMNS = ("anchor", "positive", "negative")


def tuples(rows: pa.Table, *, scores: bool = False) -> pa.Table:
    """Rows [N] into one row for each negative, in order; rows without a negative give none."""
    flat, owner, _ = _negatives(rows)
    table = rows.select(["anchor", "positive"]).take(pa.array(owner)).append_column("negative", flat.field("text"))
    if not scores:
        return table
    pairs = np.stack([_positive(rows)[owner], _scores(flat)], axis=1).ravel()
    return table.append_column("scores", _lists(pairs, np.full(len(owner), 2)))


def n_tuples(rows: pa.Table, count: int, *, scores: bool = False) -> pa.Table:
    """Rows that have `count` negatives, as columns negative_1 ... negative_n: the first ones; others are left out."""
    lengths = pc.list_value_length(rows["negatives"]).to_numpy()
    full = rows.filter(pa.array(lengths >= count))
    flat, _, place = _negatives(full)
    table = full.select(["anchor", "positive"])
    for number in range(count):
        at = pa.array(np.flatnonzero(place == number))
        table = table.append_column(f"negative_{number + 1}", flat.field("text").take(at))
    if not scores:
        return table
    found = _scores(flat)[place < count].reshape(-1, count)
    every = np.concatenate([_positive(full)[:, None], found], axis=1)
    return table.append_column("scores", _lists(every.ravel(), np.full(full.num_rows, count + 1)))


def labelled_lists(rows: pa.Table, *, scores: bool = False) -> pa.Table:
    """Rows with a negative as (anchor, [positive, negatives...], labels 1 and 0, or scores)."""
    held = rows.filter(pc.greater(pc.list_value_length(rows["negatives"]), 0))
    flat, owner, place = _negatives(held)
    counts = 1 + np.bincount(owner, minlength=held.num_rows)
    first = np.cumsum(counts) - counts
    texts = np.empty(int(counts.sum()), object)
    texts[first] = held["positive"].to_pylist()
    texts[first[owner] + 1 + place] = flat.field("text").to_pylist()
    values = np.zeros(len(texts), np.float64)
    values[first] = _positive(held) if scores else 1
    values[first[owner] + 1 + place] = _scores(flat) if scores else 0
    last = _lists(values if scores else values.astype(np.int64), counts)
    columns = [held["anchor"], _lists(pa.array(texts.tolist(), pa.string()), counts), last]
    return pa.table(columns, names=["anchor", "positive", "scores" if scores else "labels"])


def labelled_pairs(rows: pa.Table, *, scores: bool = False) -> pa.Table:
    """Rows (anchor, document, label or score): an anchor's positives, then its negatives once."""
    made: list[tuple[str, str, Any]] = []
    for anchor, group in _anchors(rows):
        made += [(anchor, row["positive"], row.get("positive_score") if scores else 1) for row in group]
        made += [(anchor, one["text"], one["score"] if scores else 0) for one in group[0]["negatives"]]
    columns = [list(column) for column in zip(*made, strict=True)] or [[], [], []]
    kinds = [pa.string(), pa.string(), pa.float64() if scores else pa.int64()]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=["anchor", "positive", "score" if scores else "label"])


def flag_lines(rows: pa.Table) -> Iterator[bytes]:
    """JSON lines as FlagEmbedding reads them (query, pos, neg, pos_scores, neg_scores), one a row."""
    for row in rows.to_pylist():
        if not row["negatives"]:
            continue
        line: dict[str, Any] = {"query": row["anchor"], "pos": [row["positive"]]}
        line["neg"] = [one["text"] for one in row["negatives"]]
        if row.get("positive_score") is not None:
            line |= {"pos_scores": [row["positive_score"]], "neg_scores": [one["score"] for one in row["negatives"]]}
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


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
    """Negatives of all rows, with the row and the place of each."""
    column = whole(rows["negatives"])
    owner, place, _ = spread(column)
    return column.flatten(), owner, place


def _positive(rows: pa.Table) -> Any:
    return rows["positive_score"].to_numpy().astype(np.float64)


def _scores(flat: pa.StructArray) -> Any:
    return flat.field("score").to_numpy(zero_copy_only=False).astype(np.float64)


def _lists(values: Any, counts: Any) -> pa.ListArray:
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values if isinstance(values, pa.Array) else pa.array(values))
