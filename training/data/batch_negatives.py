"""Other documents of a global batch as negatives of rows that have few: what a reranker needs of plain pairs.

A bi-encoder sees the documents of all rows for nothing. A cross-encoder reads each pair, so a row gets a few. They are
drawn of the whole batch, by a hash of seed, batch and row: the same for any number of ranks. Documents known to be
relevant to the row's query are never among them, nor near duplicates of those.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.text.normalize import stable_id
from training.data.batching import Ints
from training.data.tokenized import NEGATIVE, lists_of, ragged

FILLED = ("pairs", "triplets", "mined")  # tables of rows whose negatives are no judgments


def fill_negatives(batch: pa.Table, count: int, seed: str) -> pa.Table:
    """Rows of a global batch with negatives added from its other rows, so that each has at least `count` where it can.

    Rows of judged lists and of labelled pairs stay as they are. `seed` names the run and the step.
    """
    negatives, counts = ragged(batch["negatives"])
    documents = _Documents.of(batch)
    owners, chosen = [np.repeat(np.arange(len(batch)), counts)], list[Ints]()
    ends = np.cumsum(counts)
    relevant, clusters = (batch[name].to_pylist() for name in ("relevant_id", "relevant_cluster"))
    queries, tables = batch["query_id"].to_numpy(), batch["table"].to_pylist()
    ids = negatives.field("id").to_numpy()
    for row in range(len(batch)):
        lacking = count - int(counts[row])
        if lacking <= 0 or tables[row] not in FILLED:
            continue
        present = ids[ends[row] - counts[row] : ends[row]]
        allowed = documents.others(int(queries[row]), [*(relevant[row] or ()), *present], clusters[row] or ())
        random = np.random.default_rng(stable_id(f"{seed}/{row}"))
        picked = random.permutation(allowed)[:lacking]
        chosen.append(picked)
        owners.append(np.full(len(picked), row))
    added = documents.as_negatives(np.concatenate([np.zeros(0, np.int64), *chosen]))
    order = np.argsort(np.concatenate(owners), kind="stable")
    joined = pa.concat_arrays([negatives, added]).take(pa.array(order))
    lists = lists_of(joined, np.bincount(np.concatenate(owners), minlength=len(batch)))
    return batch.set_column(batch.column_names.index("negatives"), batch.schema.field("negatives"), lists)


class _Documents:
    """The distinct positives of a batch, each by its first row."""

    def __init__(self, batch: pa.Table, rows: Ints) -> None:
        self.table = batch.select(["positive_id", "positive_cluster", "positive", "query_id"]).take(pa.array(rows))
        self.ids = self.table["positive_id"].to_numpy()
        self.clusters = self.table["positive_cluster"].fill_null(-1).to_numpy()
        self.answers = dict[int, set[int]]()
        for query, document in zip(batch["query_id"].to_pylist(), batch["positive_id"].to_pylist(), strict=True):
            self.answers.setdefault(query, set()).add(document)

    @classmethod
    def of(cls, batch: pa.Table) -> "_Documents":
        """Those of the rows whose positive is right: of a labelled pair nobody knows."""
        rows = np.flatnonzero(np.isin(batch["table"].to_numpy(zero_copy_only=False), ["labelled"], invert=True))
        _, first = np.unique(batch["positive_id"].to_numpy()[rows], return_index=True)
        return cls(batch, rows[np.sort(first)])

    def others(self, query: int, known: Sequence[int], clusters: Sequence[int]) -> Ints:
        """Numbers of the documents that are neither positives of the query, nor known, nor in one of the clusters."""
        out = np.isin(self.ids, [*known, *self.answers[query]])
        out |= (self.clusters >= 0) & np.isin(self.clusters, np.asarray(clusters, dtype=np.int64))
        rows: Ints = np.flatnonzero(~out)
        return rows

    def as_negatives(self, rows: Ints) -> pa.Array:
        """Documents as entries of the column `negatives`: without scores, and of no index among those of a row."""
        table = self.table.take(pa.array(rows)).combine_chunks()
        columns = {"id": table["positive_id"], "cluster": table["positive_cluster"], "tokens": table["positive"]}
        arrays = [
            pa.concat_arrays(columns[field.name].chunks).cast(field.type)
            if field.name in columns and len(rows)
            else pa.nulls(len(rows), field.type)
            for field in NEGATIVE
        ]
        return pa.StructArray.from_arrays(arrays, fields=list(NEGATIVE))
