"""From candidates to training rows: table `triplets` of pairs, by a rule."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import schema
from pipeline.mining.candidate_arrays import Cells, Rows, spread, whole
from pipeline.mining.rules import Choice, Rule, Strategy, choose
from pipeline.storage import shards


def select(pairs: pa.Table, candidates: pa.Table, rule: Rule, texts: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
    """Table `triplets` of pairs and their candidates under a rule, and what to count in the manifest.

    `texts` (doc_id, text) holds the documents that are taken, see `taken_ids`.
    """
    choice, cells = chosen(candidates, rule)
    flat, owner, column = _taken(candidates, choice)
    names = flat.field("doc_id")
    scores = flat.field("score").to_numpy()
    known = cells.positive[owner]
    structs = [
        names,
        texts["text"].combine_chunks().take(pc.index_in(names, value_set=texts["doc_id"].combine_chunks())),
        pa.array(scores),
        pa.array((column + 1).astype(np.int32)),
        pa.array([reason(*pair) for pair in zip(scores.tolist(), known.tolist(), strict=True)], pa.string()),
    ]
    counts = np.bincount(owner, minlength=candidates.num_rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    negatives = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(structs, fields=list(schema.NEGATIVE)))
    told = {
        "negatives_per_row": Counter(counts.tolist()),
        "refused": choice.refused,
        "positive_not_in_corpus": int(np.isnan(cells.positive).sum()),
    }
    return schema.conform(pairs.append_column("negatives", negatives), "triplets"), told


def chosen(candidates: pa.Table, rule: Rule) -> tuple[Choice, Cells]:
    """What a rule takes of a table `candidates`."""
    cells = Cells.of(candidates, keyed=rule.strategy is not Strategy.TOP)
    return choose(cells, rule), cells


def taken_ids(candidates: pa.Table, rule: Rule) -> pa.Array:
    """Ids of the documents that a rule takes."""
    return _taken(candidates, chosen(candidates, rule)[0])[0].field("doc_id")


def _taken(candidates: pa.Table, choice: Choice) -> tuple[pa.StructArray, Rows, Rows]:
    """Candidates that were taken, with the row and the column of each."""
    column = whole(candidates["candidates"])
    row, place, _ = spread(column)
    hit = np.flatnonzero(choice.taken[row, place]) if len(row) else row
    return column.flatten().take(pa.array(hit)), row[hit], place[hit]


def reason(score: float, positive: float) -> str:
    """Why a negative was taken, in words for a reader of the data."""
    if positive > 0:
        return f"mined: {score / positive:.2f} of positive"
    return f"mined: {score:.2f}, positive {positive:.2f}"


def document_texts(corpus: Sequence[str], wanted: Sequence[pa.Array]) -> pa.Table:
    """Table (doc_id, text) of wanted documents, read in one pass over the corpus."""
    names = pa.chunked_array(list(wanted), pa.string()).unique()
    parts = [
        table.filter(pc.is_in(table["doc_id"], value_set=names)) for table in shards.batches(corpus, ["doc_id", "text"])
    ]
    return pa.concat_tables(
        [pa.table({"doc_id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), *parts]
    )
