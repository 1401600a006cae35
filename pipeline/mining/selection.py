"""Negatives of pairs: the candidates that a rule selects, with their texts, as table `triplets`."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import schema
from pipeline.mining.candidate_arrays import Bools, CandidateArrays, Rows, as_array, list_positions
from pipeline.mining.rules import Selection, SelectionRule, apply_rule
from pipeline.storage import shards


def select_negatives(
    pairs: pa.Table,
    candidates: pa.Table,
    rule: SelectionRule,
    texts: pa.Table,
    *,
    cross_scores: bool = False,
    relevant: Bools | None = None,
) -> tuple[pa.Table, dict[str, Any]]:
    """Table `triplets` of pairs and their candidates under a rule, and the counts for the manifest.

    `texts` (doc_id, text) holds the documents that are selected, see `selected_ids`. With `cross_scores` the rows carry
    the scores of the cross-encoder, for positives too, in place of cosines. What is `relevant` [P, K] in the eyes of a
    judge is refused after it was selected, and nothing fills its place.
    """
    selection, arrays = select_from_table(candidates, rule)
    if relevant is not None:
        refused = selection.refused | {"judged_relevant": int((selection.selected & relevant).sum())}
        selection = Selection(selection.selected & ~relevant, refused)
    flat, row, column = selected_candidates(candidates, selection)
    ids = flat.field("doc_id")
    scores = flat.field("score").to_numpy()
    positive_scores = arrays.positive[row]
    structs = [
        ids,
        texts["text"].combine_chunks().take(pc.index_in(ids, value_set=texts["doc_id"].combine_chunks())),
        flat.field("cross_score") if cross_scores else pa.array(scores),
        pa.array((column + 1).astype(np.int32)),
        pa.array([reason(*pair) for pair in zip(scores.tolist(), positive_scores.tolist(), strict=True)], pa.string()),
    ]
    per_row = np.bincount(row, minlength=candidates.num_rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(per_row)]).astype(np.int32))
    negatives = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(structs, fields=list(schema.NEGATIVE)))
    counts = {
        "negatives_per_row": Counter(per_row.tolist()),
        "refused": selection.refused,
        "positive_not_in_corpus": int(np.isnan(arrays.positive).sum()),
    }
    rows = pairs.append_column("negatives", negatives)
    if cross_scores:
        rows = rows.append_column("teacher_score", candidates["positive_cross_score"])
    return schema.conform(rows, "triplets"), counts


def select_from_table(candidates: pa.Table, rule: SelectionRule) -> tuple[Selection, CandidateArrays]:
    """Apply a rule to a table `candidates`."""
    arrays = CandidateArrays.from_table(candidates, with_keys=rule.needs_keys)
    return apply_rule(rule, arrays), arrays


def selected_ids(candidates: pa.Table, rule: SelectionRule) -> pa.Array:
    """Ids of the documents that a rule selects."""
    return selected_candidates(candidates, select_from_table(candidates, rule)[0])[0].field("doc_id")


def selected_candidates(candidates: pa.Table, selection: Selection) -> tuple[pa.StructArray, Rows, Rows]:
    """Candidates that were selected, with the row and the column of each."""
    lists = as_array(candidates["candidates"])
    row, column, _ = list_positions(lists)
    hit = np.flatnonzero(selection.selected[row, column]) if len(row) else row
    return lists.flatten().take(pa.array(hit)), row[hit], column[hit]


def reason(score: float, positive: float) -> str:
    """Where a negative came from, in words for a reader of the data."""
    if positive > 0:
        return f"mined: {score / positive:.2f} of positive"
    return f"mined: {score:.2f}, positive {positive:.2f}"


def document_texts(corpus: Sequence[str], ids: Sequence[pa.Array]) -> pa.Table:
    """Table (doc_id, text) of the documents with these ids, read in one pass over the corpus."""
    names = pa.chunked_array(list(ids), pa.string()).unique()
    parts = [
        table.filter(pc.is_in(table["doc_id"], value_set=names))
        for table in shards.read_batches(corpus, ["doc_id", "text"])
    ]
    return pa.concat_tables(
        [pa.table({"doc_id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), *parts]
    )
