"""Judgments joined with their queries and documents, and the tables that follow: queries, qrels, pairs.

Every corpus is read as queries, documents and judgments; a pair is a judgment that is relevant enough. Each join sees
one bucket: all rows of a query id, then all of a document id, then all of a canonical query.
"""

from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.building.judgments import JudgedQueries
from pipeline.building.merged_groups import MergedGroups
from pipeline.building.product_pairs import SimilarConfig
from pipeline.building.unmatched import count_matches
from pipeline.core.config import Config
from pipeline.core.schema import TABLES
from pipeline.sources.reading.record import SCHEMAS
from pipeline.sources.reading.splits import SplitConfig
from pipeline.storage.counts import EXAMPLES, Counts
from pipeline.text.normalize import hash64

JUDGMENTS_WITH_QUERY = SCHEMAS["judgments"].append(pa.field("tags", pa.list_(pa.string())))
JUDGMENTS_WITH_DOCUMENT = pa.schema(
    [
        *SCHEMAS["judgments"],
        pa.field("text", pa.string()),
        pa.field("group", pa.string()),
        pa.field("identities", pa.list_(pa.string())),  # of the document, see `negatives`
        pa.field("over_cap", pa.bool_()),  # the document has `max_per_document` pairs without this one
    ]
)


class PairConfig(Config):
    """Which judgments become training pairs."""

    min_relevance: int = Field(default=1, description="lowest relevance of a positive")
    max_per_query: int | None = Field(default=None, ge=1, description="most pairs of a query, the most relevant first")
    max_per_document: int | None = Field(
        default=None, ge=1, description="most pairs of a document, the most relevant first: a popular answer"
    )
    weights: dict[int, float] = Field(
        default={}, description="weight of a pair in training, by relevance: {1: 0.3, 3: 1}; 1 by default"
    )
    similar: SimilarConfig = SimilarConfig()
    title_description: bool = Field(default=False, description="also pair each document's title with its text")
    title_body: bool = Field(
        default=False, description="also pair each question's title with its body, and the body with the positives"
    )


def join_queries(judgments: pa.Table, queries: pa.Table, tally: Counts) -> pa.Table:
    """Judgments (`JUDGMENTS_WITH_QUERY`) with canonical id and tags of their query; those without one are counted."""
    judgments, rows, _ = _join(judgments, queries, "query", tally)
    return judgments.append_column("tags", queries["tags"].take(rows))


def join_documents(
    judgments: pa.Table, documents: pa.Table, need_text: np.ndarray, config: PairConfig, tally: Counts
) -> pa.Table:
    """Judgments (`JUDGMENTS_WITH_DOCUMENT`) with canonical id, group and, where `need_text`, text of their document."""
    over_cap = _over_cap(judgments, config)
    judgments, rows, matched = _join(judgments.drop_columns("tags"), documents, "document", tally)
    text = pc.coalesce(judgments["passage"], documents["text"].take(rows))
    text = pc.if_else(pa.array(need_text[matched]), text, None)
    judgments = judgments.append_column("text", text).append_column("group", documents["group"].take(rows))
    judgments = judgments.append_column("identities", documents["identities"].take(rows))
    return judgments.append_column("over_cap", pa.array(over_cap[matched]))


def _over_cap(judgments: pa.Table, config: PairConfig) -> np.ndarray:
    """Which judgments [N] go beyond `max_per_document`: the least relevant, then by a hash of the query."""
    over_cap = np.zeros(judgments.num_rows, dtype=bool)
    if config.max_per_document is None:
        return over_cap
    grades = judgments["relevance"].to_pylist()
    names = zip(judgments["doc_id"].to_pylist(), judgments["query_id"].to_pylist(), strict=True)
    ranked = sorted(
        (document, -grade, hash64(query), query, row)
        for row, ((document, query), grade) in enumerate(zip(names, grades, strict=True))
        if grade >= config.min_relevance
    )
    for _, run in groupby(ranked, key=lambda item: item[0]):
        seen: dict[str, int] = {}
        for *_, query, row in run:
            over_cap[row] = seen.setdefault(query, len(seen)) >= config.max_per_document
    return over_cap


def with_query_tags(documents: pa.Table, judgments: pa.Table) -> pa.Table:
    """Documents with the tags of the first tagged question that is judged with them, and its first tag as category.

    Answers have no tags of their own. Documents with a category or tags keep what they have.
    """
    judgments = judgments.filter(pc.greater(pc.list_value_length(judgments["tags"]), 0)).sort_by("order")
    if judgments.num_rows == 0:
        return documents
    topics: dict[str, list[str]] = {}
    for doc_id, tags in zip(judgments["doc_id"].to_pylist(), judgments["tags"].to_pylist(), strict=True):
        topics.setdefault(doc_id, tags)
    tags = documents["tags"].to_pylist()
    category = documents["category"].to_pylist()
    for row, doc_id in enumerate(documents["id"].to_pylist()):
        if doc_id in topics and not tags[row] and category[row] is None:
            tags[row], category[row] = topics[doc_id], topics[doc_id][0]
    for name, values in (("tags", tags), ("category", category)):
        index = documents.schema.get_field_index(name)
        documents = documents.set_column(index, documents.schema.field(name), pa.array(values, documents[name].type))
    return documents


def with_merged_groups(documents: pa.Table, merged_groups: MergedGroups) -> pa.Table:
    """Documents whose group is replaced by the one it was merged into, where it is linked to others."""
    index = documents.schema.get_field_index("group")
    return documents.set_column(index, "group", merged_groups.of(documents["group"]))


def _join(judgments: pa.Table, other: pa.Table, noun: str, tally: Counts) -> tuple[pa.Table, pa.Array, np.ndarray]:
    column = "query_id" if noun == "query" else "doc_id"
    rows = pc.index_in(judgments[column], other["id"].combine_chunks()).combine_chunks()
    matched = rows.is_valid()
    count_matches(judgments, matched.to_numpy(False), noun, tally)
    unmatched = judgments.filter(pc.invert(matched))
    tally.drop(f"judgment_without_{noun}", unmatched.num_rows)
    for row in unmatched.slice(0, EXAMPLES).to_pylist():
        tally.drop(f"judgment_without_{noun}", 0, f"{row['query_id']} -> {row['doc_id']} of {row['source']}")
    rows = rows.drop_null()
    index = judgments.schema.get_field_index(column)
    judgments = judgments.filter(matched).set_column(index, column, other["canonical_id"].take(rows))
    return judgments, rows, matched.to_numpy(False)


def positives(judged_queries: JudgedQueries, config: PairConfig, tally: Counts) -> pa.Table:
    """Rows of table `pairs`: the judgments that are relevant enough, at most `max_per_query` of a query."""
    relevant = judged_queries.judgments.filter(
        pc.greater_equal(judged_queries.judgments["relevance"], config.min_relevance)
    )
    tally.drop("over_max_per_document", pc.sum(relevant["over_cap"]).as_py() or 0)
    relevant = relevant.filter(pc.invert(relevant["over_cap"]))
    if config.max_per_query is not None:
        runs = [len(list(run)) for _, run in groupby(relevant["query_id"].to_pylist())]
        rank = np.concatenate([np.arange(run) for run in runs]) if runs else np.zeros(0, dtype=int)
        tally.drop("over_max_per_query", int((rank >= config.max_per_query).sum()))
        relevant = relevant.filter(pa.array(rank < config.max_per_query))
    row = pc.index_in(relevant["query_id"], judged_queries.queries["query_id"].combine_chunks())
    columns = {
        "anchor_id": relevant["query_id"],
        "anchor": judged_queries.queries["text"].take(row),
        "positive_id": relevant["doc_id"],
        "positive": relevant["text"],
        "source": relevant["source"],
        "split": relevant["split"],
        "group_id": judged_queries.queries["group"].take(row),
        "relevance": pc.cast(relevant["relevance"], pa.float32()),
        "weight": _weights(relevant["relevance"], config),
        "reason": relevant["reason"],
    }
    return pa.table(columns, schema=TABLES["pairs"])


def _weights(grades: pa.ChunkedArray, config: PairConfig) -> pa.Array:
    """Weights of pairs [N] of these grades."""
    if not config.weights:
        return pa.nulls(len(grades), pa.float32())
    return pa.array([config.weights.get(grade) for grade in grades.to_pylist()], pa.float32())


def title_pairs(documents: pa.Table, splits: SplitConfig) -> pa.Table:
    """Rows of table `pairs`: each document's title with its text, where it has both and they differ."""
    rows = []
    for row in documents.to_pylist():
        if row["title"] and row["body"] and row["title"] != row["body"]:
            group = row["group"] or row["id"]
            pair = {"anchor_id": f"t-{row['id']}", "anchor": row["title"], "positive_id": row["id"]}
            pair |= {"positive": row["body"], "source": row["source"], "group_id": group, "relevance": 1.0}
            rows.append(pair | {"split": row["split"] or splits.assign(group), "reason": "title-description"})
    return pa.Table.from_pylist(rows, schema=TABLES["pairs"])


def body_pairs(judged_queries: JudgedQueries, pairs: pa.Table) -> pa.Table:
    """Rows of table `pairs`: each query's text with its body, and the body with each of the query's positives.

    A question's title summarises its body, so the two are a pair without any judgment.
    """
    queries = judged_queries.queries.filter(
        pc.greater(pc.utf8_length(pc.fill_null(judged_queries.queries["body"], "")), 0)
    )
    names = pc.binary_join_element_wise("b", queries["query_id"], "-")
    titles = {
        "anchor_id": queries["query_id"],
        "anchor": queries["text"],
        "positive_id": names,
        "positive": queries["body"],
        "source": queries["source"],
        "split": queries["split"],
        "group_id": queries["group"],
        "relevance": pa.array(np.ones(queries.num_rows, np.float32)),
        "weight": pa.nulls(queries.num_rows, pa.float32()),
        "reason": pa.array(["title-body"] * queries.num_rows, pa.string()),
    }
    row = pc.index_in(pairs["anchor_id"], queries["query_id"].combine_chunks())
    answered = pairs.filter(row.is_valid())
    row = row.drop_null()
    for name, column in (("anchor_id", names), ("anchor", queries["body"])):
        answered = answered.set_column(answered.schema.get_field_index(name), name, column.take(row))
    reason = pc.binary_join_element_wise("body", answered["reason"], ", ")
    answered = answered.set_column(answered.schema.get_field_index("reason"), "reason", reason)
    return pa.concat_tables([pa.table(titles, schema=TABLES["pairs"]), answered])
