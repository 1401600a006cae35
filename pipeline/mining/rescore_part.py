"""Reranker scores into a table `candidates`: what an anchor was found with is scored once for all its pairs."""

from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.mining.cells import Floats, Rows, spread, whole


class Scorer(Protocol):
    """What scores pairs of texts [N]."""

    def score(self, lefts: list[str], rights: list[str], /) -> Floats:
        """Score pairs."""
        ...


def looked_at(table: pa.Table, top: int | None) -> tuple[pa.Array, Rows, Rows]:
    """Ids of the candidates that are scored, the row of each, and its place among all candidates."""
    column = whole(table["candidates"])
    row, place, width = spread(column)
    at = np.flatnonzero(place < (top or width))
    return column.flatten().field("doc_id").take(pa.array(at)), row[at], at


def cross_scored(table: pa.Table, pairs: pa.Table, texts: pa.Table, reranker: Scorer, top: int | None) -> pa.Table:
    """Table `candidates` with the scores of a reranker; what an anchor found is scored once for all its pairs."""
    ids, row, at = looked_at(table, top)
    anchor = pairs["anchor"].combine_chunks().dictionary_encode()
    anchor = anchor.chunk(0) if isinstance(anchor, pa.ChunkedArray) else anchor
    doc = pc.index_in(ids, value_set=texts["doc_id"].combine_chunks()).to_numpy(zero_copy_only=False).astype(np.int64)
    cells = anchor.indices.to_numpy()[row] * max(1, texts.num_rows) + doc
    distinct, back = np.unique(cells, return_inverse=True)
    asked, held = anchor.dictionary.to_pylist(), texts["text"].to_pylist()
    lefts = [asked[cell // max(1, texts.num_rows)] for cell in distinct.tolist()]
    rights = [held[cell % max(1, texts.num_rows)] for cell in distinct.tolist()]
    scores = reranker.score(lefts + pairs["anchor"].to_pylist(), rights + pairs["positive"].to_pylist())
    return _with_cross(table, at, scores[: len(distinct)][back], scores[len(distinct) :])


def _with_cross(table: pa.Table, at: Rows, scores: Floats, positives: Floats) -> pa.Table:
    """Put scores of candidates into their places, and those of positives beside them."""
    column = whole(table["candidates"])
    flat = column.flatten()
    values = np.full(len(flat), np.nan, np.float32)
    values[at] = scores
    fields = [flat.field(field.name) for field in schema.CANDIDATE]
    fields[schema.CANDIDATE.get_field_index("cross_score")] = pa.array(values, from_pandas=True)
    counts = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    structs = pa.StructArray.from_arrays(fields, fields=list(schema.CANDIDATE))
    place = table.column_names.index("positive_cross_score")
    scored = table.set_column(place, schema.TABLES["candidates"].field(place), pa.array(positives, pa.float32()))
    last = table.column_names.index("candidates")
    return scored.set_column(last, table.schema.field(last), pa.ListArray.from_arrays(offsets, structs))
