"""The judgments of a query resolved: one split and group for each query, one judgment for each query and document."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.merged_groups import MergedGroups
from pipeline.sources.reading.splits import HELD_OUT_ORDER, SplitConfig
from pipeline.storage.counts import EXAMPLES, Counts


@dataclass(frozen=True)
class JudgedQueries:
    """The queries of a bucket that have judgments, with these judgments: best first within a query."""

    queries: pa.Table  # table `queries` and the group
    judgments: pa.Table  # JUDGMENTS_WITH_DOCUMENT by query, falling relevance, document; split is the query's


def resolve_judgments(
    queries: pa.Table,
    judgments: pa.Table,
    splits: SplitConfig,
    unjudged: Mapping[str, str],
    merged_groups: MergedGroups,
    tally: Counts,
) -> JudgedQueries:
    """Resolve the split and group of each query and keep one judgment for each query and document, the most relevant.

    A query's split is forced by its own row, else by its judgments (test before dev before train), else follows from
    the hash of its group: its own group, else the smallest of its documents' groups, else the query. A judgment forced
    into another split than its query's is left out (`held_out_query`): it would leak or change an evaluation.
    `merged_groups` names the common group of groups that near duplicates or answers link; `unjudged` is the reason
    under which a source's queries without judgments are counted.
    """
    judgments = _best_first(judgments)
    row = pc.index_in(judgments["query_id"], queries["id"].combine_chunks()).to_numpy()
    split, group = _split_and_group(queries, judgments, row, splits, merged_groups)
    query_split = split.take(pa.array(row))
    same = pc.fill_null(pc.equal(judgments["split"].combine_chunks(), query_split), True)
    stays = same.to_numpy(zero_copy_only=False)
    tally.drop("held_out_query", int((~stays).sum()))
    judgments, row, query_split = judgments.filter(same), row[stays], query_split.filter(same)
    judgments = judgments.set_column(judgments.schema.get_field_index("split"), "split", query_split)
    judgments, row = _unique_judgments(judgments, row, tally)
    has_judgment = np.zeros(queries.num_rows, dtype=bool)
    has_judgment[row] = True
    for source in queries["source"].filter(pa.array(~has_judgment)).value_counts().to_pylist():
        tally.drop(unjudged.get(source["values"], "query_without_judgment"), source["counts"])
    queries = queries.set_column(queries.schema.get_field_index("split"), "split", split)
    queries = queries.set_column(queries.schema.get_field_index("group"), "group", group)
    queries = queries.rename_columns(["query_id" if name == "id" else name for name in queries.column_names])
    return JudgedQueries(queries.filter(pa.array(has_judgment)), judgments)


def _split_and_group(
    queries: pa.Table, judgments: pa.Table, row: np.ndarray, splits: SplitConfig, merged_groups: MergedGroups
) -> tuple[pa.Array, pa.Array]:
    """Split and group of each query."""
    none = len(HELD_OUT_ORDER)
    forced = np.full(queries.num_rows, none)
    np.minimum.at(forced, row, pc.fill_null(pc.index_in(judgments["split"], HELD_OUT_ORDER), none).to_numpy())
    by_judgments = HELD_OUT_ORDER.take(pa.array(forced, mask=forced == none))
    group = pc.coalesce(
        _not_empty(queries["group"]), _smallest_group(queries, judgments), queries["id"].combine_chunks()
    )
    group = merged_groups.of(group)
    return pc.coalesce(queries["split"].combine_chunks(), by_judgments, splits.assigned(group)), group


def _not_empty(names: pa.ChunkedArray) -> pa.Array:
    """Names [N], null where they are empty."""
    array = names.combine_chunks()
    return pc.if_else(pc.equal(array, ""), None, array)


def _smallest_group(queries: pa.Table, judgments: pa.Table) -> pa.Array:
    """For each query the smallest group of its documents; null where they have none."""
    groups = pa.table({"query": judgments["query_id"], "group": _not_empty(judgments["group"])})
    groups = groups.filter(groups["group"].is_valid())
    if not groups.num_rows:
        return pa.nulls(queries.num_rows, pa.string())
    smallest = groups.group_by("query").aggregate([("group", "min")])
    row = pc.index_in(queries["id"], smallest["query"].combine_chunks())
    return smallest["group_min"].take(row).combine_chunks()


def _best_first(judgments: pa.Table) -> pa.Table:
    """Judgments by query, falling relevance, document and order."""
    query, document = _ranks(judgments["query_id"]), np.zeros(judgments.num_rows, np.uint64)
    several = np.flatnonzero(np.bincount(query.astype(np.int64))[query] > 1)  # only there the document matters
    document[several] = _ranks(judgments["doc_id"].take(pa.array(several)))
    order = np.lexsort((judgments["order"].to_numpy(), document, -judgments["relevance"].to_numpy(), query))
    return judgments.take(pa.array(order)).combine_chunks()


def _ranks(names: pa.ChunkedArray) -> np.ndarray:
    """Rank of each name [N] among the distinct names."""
    ranks: np.ndarray = pc.rank(names, sort_keys="ascending", tiebreaker="dense").to_numpy()
    return ranks


def _unique_judgments(judgments: pa.Table, row: np.ndarray, tally: Counts) -> tuple[pa.Table, np.ndarray]:
    """Keep the first judgment of each query and document; the others are counted unless they refine the same one."""
    document = judgments["doc_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    pair = row.astype(np.int64) * (judgments.num_rows + 1) + document
    _, first, group = np.unique(pair, return_index=True, return_inverse=True)
    first = first[group]
    later = np.flatnonzero(first != np.arange(judgments.num_rows))
    refines = pc.fill_null(judgments["refines"], False).to_numpy()
    duplicates = later[refines[first[later]] == refines[later]]
    tally.drop("duplicate_judgment", len(duplicates))
    for index in duplicates[:EXAMPLES].tolist():
        tally.drop("duplicate_judgment", 0, f"{judgments['query_id'][index]} -> {judgments['doc_id'][index]}")
    if not len(later):
        return judgments, row
    stays = np.ones(judgments.num_rows, dtype=bool)
    stays[later] = False
    return judgments.filter(pa.array(stays)), row[stays]
