"""The judgments of a query settled: the split and group of each query, and one judgment a query and document."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.reading.splits import HELD_OUT_ORDER, SplitConfig
from pipeline.storage.counts import EXAMPLES, Counts


@dataclass(frozen=True)
class Judged:
    """The queries of a bucket that have judgments, with these judgments: best first within a query."""

    queries: pa.Table  # table `queries` and the group
    judgments: pa.Table  # MATCHED, sorted by query, falling relevance, document; split is the query's


def judge(
    queries: pa.Table,
    matched: pa.Table,
    splits: SplitConfig,
    unjudged: Mapping[str, str],
    units: Mapping[str, str],
    tally: Counts,
) -> Judged:
    """Settle the split and group of each query and keep one judgment a query and document, the most relevant.

    A query's split is forced by its own row, else by its judgments (test before dev before train), else follows from
    the hash of its group: its own group, else the smallest of its documents' groups, else the query. A judgment forced
    into another split than its query's is left out (`held_out_query`): kept, it would leak or change an evaluation.
    `units` names what a group belongs to where near duplicates tie it to others.
    """
    matched = _best_first(matched)
    ids = queries["id"].combine_chunks()
    row = pc.index_in(matched["query_id"], ids).to_numpy()
    split, group = _settle(queries, matched, row, splits, units)
    settled = split.take(pa.array(row))
    fits = pc.fill_null(pc.equal(matched["split"].combine_chunks(), settled), True)
    stays = fits.to_numpy(zero_copy_only=False)
    tally.drop("held_out_query", int((~stays).sum()))
    matched, row, settled = matched.filter(fits), row[stays], settled.filter(fits)
    matched = matched.set_column(matched.schema.get_field_index("split"), "split", settled)
    matched, row = _one_each(matched, row, tally)
    asked = np.zeros(queries.num_rows, dtype=bool)
    asked[row] = True
    lost = queries["source"].filter(pa.array(~asked)).value_counts()
    for found in lost.to_pylist():
        tally.drop(unjudged.get(found["values"], "query_without_judgment"), found["counts"])
    queries = queries.set_column(queries.schema.get_field_index("split"), "split", split)
    queries = queries.set_column(queries.schema.get_field_index("group"), "group", group)
    named = queries.rename_columns(["query_id" if name == "id" else name for name in queries.column_names])
    return Judged(named.filter(pa.array(asked)), matched)


def _settle(
    queries: pa.Table, matched: pa.Table, row: np.ndarray, splits: SplitConfig, units: Mapping[str, str]
) -> tuple[pa.Array, pa.Array]:
    """Split and group of each query."""
    none = len(HELD_OUT_ORDER)
    forced = np.full(queries.num_rows, none)
    np.minimum.at(forced, row, pc.fill_null(pc.index_in(matched["split"], HELD_OUT_ORDER), none).to_numpy())
    first = pa.array(forced, mask=forced == none)
    group = pc.coalesce(_said(queries["group"]), _smallest_topic(queries, matched), queries["id"].combine_chunks())
    if units:
        group = pa.array([units.get(name, name) for name in group.to_pylist()], pa.string())
    own = queries["split"].combine_chunks()
    return pc.coalesce(own, HELD_OUT_ORDER.take(first), splits.assigned(group)), group


def _said(names: pa.ChunkedArray) -> pa.Array:
    """Names, null where nothing is said."""
    array = names.combine_chunks()
    return pc.if_else(pc.equal(array, ""), None, array)


def _smallest_topic(queries: pa.Table, matched: pa.Table) -> pa.Array:
    """For each query the smallest group of its documents; null for none."""
    topics = pa.table({"query": matched["query_id"], "topic": _said(matched["group"])})
    topics = topics.filter(topics["topic"].is_valid())
    if not topics.num_rows:
        return pa.nulls(queries.num_rows, pa.string())
    least = topics.group_by("query").aggregate([("topic", "min")])
    at = pc.index_in(queries["id"], least["query"].combine_chunks())
    return least["topic_min"].take(at).combine_chunks()


def _best_first(matched: pa.Table) -> pa.Table:
    """Judgments by query, falling relevance, document and order."""
    query, document = _places(matched["query_id"]), np.zeros(matched.num_rows, np.uint64)
    several = np.flatnonzero(np.bincount(query.astype(np.int64))[query] > 1)  # only there documents are in an order
    document[several] = _places(matched["doc_id"].take(pa.array(several)))
    order = np.lexsort((matched["order"].to_numpy(), document, -matched["relevance"].to_numpy(), query))
    return matched.take(pa.array(order)).combine_chunks()


def _places(names: pa.ChunkedArray) -> np.ndarray:
    """Place of each name in their order, the same for the same name."""
    found: np.ndarray = pc.rank(names, sort_keys="ascending", tiebreaker="dense").to_numpy()
    return found


def _one_each(matched: pa.Table, row: np.ndarray, tally: Counts) -> tuple[pa.Table, np.ndarray]:
    """Keep the first judgment of each query and document; others are counted unless they say more about the same."""
    document = matched["doc_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    places = row.astype(np.int64) * (matched.num_rows + 1) + document
    _, first, group = np.unique(places, return_index=True, return_inverse=True)
    first = first[group]
    later = np.flatnonzero(first != np.arange(matched.num_rows))
    refines = pc.fill_null(matched["refines"], False).to_numpy()
    said = later[refines[first[later]] == refines[later]]
    tally.drop("duplicate_judgment", len(said))
    for index in said[:EXAMPLES].tolist():
        tally.drop("duplicate_judgment", 0, f"{matched['query_id'][index]} -> {matched['doc_id'][index]}")
    if not len(later):
        return matched, row
    stays = np.ones(matched.num_rows, dtype=bool)
    stays[later] = False
    return matched.filter(pa.array(stays)), row[stays]
