"""Triplets with the negatives that a source brings along: n-tuples, FlagEmbedding's lines, Tevatron, DPR.

A negative belongs to the positives of its own input row; one whose row has no positive belongs to all of its query.
Rows are told apart by their order, which no two of them share.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.negatives import IDENTITIES, TRIPLET_CANDIDATES, as_candidates, bar
from pipeline.sources.reading.record import SCHEMAS
from pipeline.storage.counts import Counts

NEGATIVES_WITH_TEXT = pa.schema(
    [*SCHEMAS["negatives"], ("text", pa.string()), ("identities", IDENTITIES)]  # of the document, see `negatives`
)


def join_canonical(negatives: pa.Table, records: pa.Table, column: str, tally: Counts) -> tuple[pa.Table, pa.Array]:
    """Negatives with the canonical id in a column, and the rows [N] of `records` that they were joined with."""
    rows = pc.index_in(negatives[column], records["id"].combine_chunks()).combine_chunks()
    tally.drop(f"negative_without_{'query' if column == 'query_id' else 'document'}", rows.null_count)
    negatives, rows = negatives.filter(rows.is_valid()), rows.drop_null()
    index = negatives.schema.get_field_index(column)
    return negatives.set_column(index, column, records["canonical_id"].take(rows)), rows


def given_triplets(pairs: pa.Table, negatives: pa.Table, judgments: pa.Table, tally: Counts) -> pa.Table:
    """Rows of `TRIPLET_CANDIDATES`: pairs with the negatives (`NEGATIVES_WITH_TEXT`) that their input rows give them.

    `judgments` are all that name a document, also repeated ones. A negative that any of them says is right for the
    query is left out and counted as `barred`; of the others all that are allowed stay.
    """
    if not negatives.num_rows:
        return TRIPLET_CANDIDATES.empty_table()
    right = judgments.filter(pc.greater(judgments["relevance"], 0)).to_pylist()
    by_row: dict[int, set[str]] = {}
    positives: dict[str, set[str]] = {}
    scores: dict[tuple[str, str], float] = {}
    for row in right:
        by_row.setdefault(row["order"], set()).add(row["doc_id"])
        positives.setdefault(row["query_id"], set()).add(row["doc_id"])
        if row["score"] is not None:
            scores.setdefault((row["query_id"], row["doc_id"]), row["score"])
    by_pair = _by_pair(negatives, by_row, positives, tally)
    rows = []
    for pair in pairs.to_pylist():
        ids = (pair["anchor_id"], pair["positive_id"])
        if negatives_of_pair := by_pair.get(ids):
            stated = list(negatives_of_pair.values())
            own = {"negatives": stated, "identities": [negative["identities"] for negative in stated], "barred": []}
            rows.append({**pair, **own, "max_negatives": len(stated), "teacher_score": scores.get(ids)})
    return as_candidates(rows)


def _by_pair(
    negatives: pa.Table, by_row: Mapping[int, set[str]], positives: Mapping[str, set[str]], tally: Counts
) -> dict[tuple[str, str], dict[str, Any]]:
    """The negatives of each query and positive, by document, in the order of the input."""
    by_pair: dict[tuple[str, str], dict[str, Any]] = {}
    for row in negatives.sort_by([("order", "ascending"), ("rank", "ascending")]).to_pylist():
        query, doc_id = row["query_id"], row["doc_id"]
        if doc_id in positives.get(query, ()):
            bar(query, doc_id, tally)
            continue
        negative = {name: row[name] for name in ("doc_id", "text", "score", "identities")}
        negative |= {"rank": None, "reason": "given"}
        for positive in by_row.get(row["order"]) or positives.get(query) or set():
            by_pair.setdefault((query, positive), {}).setdefault(doc_id, negative)
    return by_pair
