"""Documents that are known to be relevant to the queries of training rows: once a query, however many rows it has.

A batch needs of them only those that are in it. So rows carry their query's id alone, a table beside them holds the
documents of each query, any number of them, and a row of a composed batch has the few that its batch holds.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.data.batching import Ints, Ragged, RowKeys
from training.data.rows import Rows
from training.data.tokenized import lists_of, ragged

IDS = pa.list_(pa.int64())
RELEVANT = pa.schema([("query_id", pa.int64()), ("relevant_id", IDS), ("relevant_cluster", IDS)])
AT_ONCE = 4 << 20  # ids that are compared at once


def row_keys(table: pa.Table, relevant: pa.Table) -> RowKeys:
    """Ids of the rows by which batches are composed; `relevant` holds their queries, in order of ids."""
    negatives, counts = ragged(table["negatives"])
    ids = negatives.field("id").to_numpy()
    documents = np.insert(ids, np.cumsum(counts) - counts, table["positive_id"].to_numpy())
    query = query_index(relevant, table["query_id"].to_numpy())
    return RowKeys(Ragged(documents, counts + 1), query, _id_lists(relevant["relevant_id"]))


def relevant_table(rows: Rows) -> pa.Table:
    """Table of `RELEVANT`: the queries of the rows in order of their ids, with the documents relevant to each."""
    queries, first = np.unique(rows.query_id, return_index=True)
    lists = (rows.relevant_id, rows.relevant_cluster)
    columns = [pa.nulls(len(queries), IDS) if part is None else _lists(part, first) for part in lists]
    return pa.table([pa.array(queries), *columns], schema=RELEVANT)


def _lists(rows: list[Ints], index: Ints) -> pa.Array:
    chosen = Ragged.from_lists([rows[row] for row in index])
    return lists_of(pa.array(chosen.values), chosen.counts)


def _id_lists(column: pa.ChunkedArray) -> Ragged:
    values, counts = ragged(column)
    return Ragged(values.to_numpy(), counts)


def distinct_queries(relevant: pa.Table) -> pa.Table:
    """The table without the repetitions of a query, in order of their ids; parts of one query hold the same lists."""
    _, first = np.unique(relevant["query_id"].to_numpy(), return_index=True)
    return relevant.take(pa.array(first)).combine_chunks()


def in_buckets(relevant: pa.Table, query_id: Ints, bucket: npt.NDArray[np.uint64]) -> pa.Table:
    """The queries that rows of each bucket have, once a bucket, with column `bucket`; `relevant` is in order of ids."""
    pairs = np.unique(bucket.astype(np.int64) * len(relevant) + query_index(relevant, query_id))
    buckets, queries = np.divmod(pairs, max(1, len(relevant)))
    return relevant.take(pa.array(queries)).append_column("bucket", pa.array(buckets.astype(np.uint64)))


def query_index(relevant: pa.Table, query_id: Ints) -> Ints:
    """Rows [n] of the table, which is in order of ids, that hold the given queries [n]."""
    return np.searchsorted(relevant["query_id"].to_numpy(), query_id)


def add_relevant(batches: pa.Table, step: Ints, relevant: pa.Table, query: Ints) -> pa.Table:
    """Add to rows, in order of their step [n], what of the documents and clusters of their batch is relevant to each.

    `query` [n] is the row of `relevant` that holds each row's query. Rows of one query in one batch have the same
    lists, in order of ids.
    """
    present = {"relevant_id": ("positive_id", "id"), "relevant_cluster": ("positive_cluster", "cluster")}
    for name, (positive, negative) in present.items():
        if relevant[name].null_count == len(relevant) and len(relevant) > 0:
            column = pa.nulls(len(batches), IDS)
        else:
            owners, ids = _brought(batches, step, positive, negative)
            lists = _restrict(_id_lists(relevant[name]), query, step, owners, ids)
            column = lists_of(pa.array(lists.values), lists.counts)
        batches = batches.append_column(pa.field(name, IDS), column)
    return batches


def _brought(batches: pa.Table, step: Ints, positive: str, negative: str) -> tuple[Ints, Ints]:
    """Steps and ids, or clusters, of all documents of the rows."""
    negatives, counts = ragged(batches["negatives"])
    parts = (batches[positive].combine_chunks(), negatives.field(negative))
    ids = np.concatenate([part.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) for part in parts])
    return np.concatenate([step, np.repeat(step, counts)]), ids


def _restrict(relevant: Ragged, query: Ints, step: Ints, owners: Ints, ids: Ints) -> Ragged:
    """Of the list of each row's query [n] the ids that are in its step, given the steps and ids of all documents.

    Ids are numbered by a hash table, and a query that a step has several times is looked at once.
    """
    owners, ids = owners[ids >= 0], ids[ids >= 0]
    number, known = _numbered(ids)
    held = pa.array(owners * len(known) + number)
    listed = _in_set(relevant.values, known)
    shortened = Ragged(listed[listed >= 0], np.bincount(relevant.owner[listed >= 0], minlength=len(relevant.counts)))
    pair, pairs = _numbered(step * len(relevant.counts) + query)
    steps, queries = np.divmod(pairs.to_numpy(), max(1, len(relevant.counts)))
    parts = [shortened.values[:0]], [np.zeros(0, np.int64)]
    for start, stop in _chunks(shortened.counts[queries]):
        lists = shortened.take(queries[start:stop])
        owner = lists.owner
        kept = _in_set(steps[start:stop][owner] * len(known) + lists.values, held) >= 0
        parts[0].append(lists.values[kept])
        parts[1].append(np.bincount(owner[kept], minlength=stop - start))
    values = np.concatenate(parts[0])
    return Ragged(known.to_numpy()[values] if len(known) else values, np.concatenate(parts[1])).take(pair)


def _numbered(values: Ints) -> tuple[Ints, pa.Array]:
    """Numbers [v] of values among the distinct ones, and these."""
    encoded = pa.array(values).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def _in_set(values: Ints, among: pa.Array) -> Ints:
    """First index [v] of each value among others, -1 where it is not one of them."""
    index: Ints = pc.fill_null(pc.index_in(pa.array(values), value_set=among), -1).to_numpy().astype(np.int64)
    return index


def _chunks(counts: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of lists that hold about `AT_ONCE` ids together, one list at least."""
    part = (np.cumsum(counts) - counts) // AT_ONCE
    starts = np.flatnonzero(np.concatenate([[True], part[1:] != part[:-1]])[: len(part)]).tolist()
    yield from zip(starts, [*starts[1:], len(counts)], strict=False)
