"""Scores of a cross-encoder in a table `candidates`; an anchor's are scored once for all its pairs."""

from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.core import schema
from pipeline.encoder.cross_encoder import CrossEncoderConfig
from pipeline.mining.candidate_arrays import Floats, Rows, as_array, list_positions


class CandidateScorerConfig(CrossEncoderConfig):
    """Which cross-encoder scores candidates, and how many of them."""

    top: int | None = Field(None, ge=1, description="score only the first so many candidates of a pair")


class PairScorer(Protocol):
    """Scores pairs of texts [N]."""

    def score(self, lefts: list[str], rights: list[str], /) -> Floats:
        """Score pairs."""
        ...


def ids_to_score(table: pa.Table, top: int | None) -> tuple[pa.Array, Rows, Rows]:
    """Ids of the candidates that are scored, the row of each, and its index among all candidates."""
    lists = as_array(table["candidates"])
    row, position, width = list_positions(lists)
    index = np.flatnonzero(position < (top or width))
    return lists.flatten().field("doc_id").take(pa.array(index)), row[index], index


def add_cross_scores(
    table: pa.Table, pairs: pa.Table, texts: pa.Table, scorer: PairScorer, top: int | None
) -> pa.Table:
    """Table `candidates` with scores of a cross-encoder for the first `top` candidates and the positives.

    `texts` (doc_id, text) holds the candidates' documents. An anchor and a document are scored once for all pairs.
    """
    ids, row, index = ids_to_score(table, top)
    anchors = as_array(pairs["anchor"]).dictionary_encode()
    doc = pc.index_in(ids, value_set=texts["doc_id"].combine_chunks()).to_numpy(zero_copy_only=False).astype(np.int64)
    cells = anchors.indices.to_numpy()[row] * max(1, texts.num_rows) + doc
    distinct, inverse = np.unique(cells, return_inverse=True)
    anchor_texts, document_texts = anchors.dictionary.to_pylist(), texts["text"].to_pylist()
    lefts = [anchor_texts[cell // max(1, texts.num_rows)] for cell in distinct.tolist()]
    rights = [document_texts[cell % max(1, texts.num_rows)] for cell in distinct.tolist()]
    scores = scorer.score(lefts + pairs["anchor"].to_pylist(), rights + pairs["positive"].to_pylist())
    return _with_cross_scores(table, index, scores[: len(distinct)][inverse], scores[len(distinct) :])


def _with_cross_scores(table: pa.Table, index: Rows, scores: Floats, positives: Floats) -> pa.Table:
    """Set the columns of cross-encoder scores: of the candidates at `index`, and of the positives."""
    lists = as_array(table["candidates"])
    flat = lists.flatten()
    values = np.full(len(flat), np.nan, np.float32)
    values[index] = scores
    fields = [flat.field(field.name) for field in schema.CANDIDATE]
    fields[schema.CANDIDATE.get_field_index("cross_score")] = pa.array(values, from_pandas=True)
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    structs = pa.StructArray.from_arrays(fields, fields=list(schema.CANDIDATE))
    column = table.column_names.index("positive_cross_score")
    scored = table.set_column(column, schema.TABLES["candidates"].field(column), pa.array(positives, pa.float32()))
    last = table.column_names.index("candidates")
    return scored.set_column(last, table.schema.field(last), pa.ListArray.from_arrays(offsets, structs))
