"""Judgments joined with their queries and documents, and the tables that follow: queries, qrels, pairs.

Every corpus comes down to queries, documents and judgments; a pair is a judgment that is relevant enough. The joins
see one bucket each: all of a query id, all of a document id, all of a kept query.
"""

from collections.abc import Mapping
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.building.judgments import Judged
from pipeline.building.product_pairs import SimilarConfig
from pipeline.core.config import Config
from pipeline.core.schema import TABLES
from pipeline.sources.reading.record import SCHEMAS
from pipeline.sources.reading.splits import SplitConfig
from pipeline.storage.counts import EXAMPLES, Counts
from pipeline.text.normalize import hash64

ASKED = SCHEMAS["judgments"].append(pa.field("tags", pa.list_(pa.string())))
MATCHED = pa.schema(
    [
        *SCHEMAS["judgments"],
        pa.field("text", pa.string()),
        pa.field("group", pa.string()),
        pa.field("over", pa.bool_()),  # the document has enough pairs without this one
    ]
)


class PairConfig(Config):
    """Which judgments become training pairs."""

    min_relevance: int = Field(default=1, description="least relevance of a positive")
    max_per_query: int | None = Field(default=None, ge=1, description="most pairs of a query, the most relevant first")
    max_per_document: int | None = Field(
        default=None, ge=1, description="most pairs of a document, the most relevant first: a popular answer"
    )
    weights: dict[int, float] = Field(
        default={}, description="what a pair counts in training, by relevance: {1: 0.3, 3: 1}; 1 where not said"
    )
    similar: SimilarConfig = SimilarConfig()
    title_description: bool = Field(default=False, description="also pair each document's title with its text")
    title_body: bool = Field(
        default=False, description="also pair each question's title with its body, and the body with the positives"
    )


def join_queries(judgments: pa.Table, queries: pa.Table, tally: Counts) -> pa.Table:
    """Judgments (`ASKED`) with the kept id and the tags of their query; those without one are counted."""
    judgments, rows, _ = _join(judgments, queries, "query", tally)
    return judgments.append_column("tags", queries["tags"].take(rows))


def join_documents(
    judgments: pa.Table, documents: pa.Table, need_text: np.ndarray, config: PairConfig, tally: Counts
) -> pa.Table:
    """Judgments (`MATCHED`) with the kept id, the group and, where `need_text` says so, the text of their document."""
    over = _over(judgments, config)
    judgments, rows, found = _join(judgments.drop_columns("tags"), documents, "document", tally)
    text = pc.if_else(pa.array(need_text[found]), documents["text"].take(rows), None)
    judgments = judgments.append_column("text", text).append_column("group", documents["group"].take(rows))
    return judgments.append_column("over", pa.array(over[found]))


def _over(judgments: pa.Table, config: PairConfig) -> np.ndarray:
    """Which judgments [N] go beyond `max_per_document`: the least relevant, then by a hash of the query."""
    over = np.zeros(judgments.num_rows, dtype=bool)
    if config.max_per_document is None:
        return over
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
            over[row] = seen.setdefault(query, len(seen)) >= config.max_per_document
    return over


def tagged(documents: pa.Table, asked: pa.Table) -> pa.Table:
    """Documents with the tags of the first tagged question that asks for them, and its first tag as category.

    Answers have no tags of their own. Documents with a category or tags keep what they have.
    """
    asked = asked.filter(pc.greater(pc.list_value_length(asked["tags"]), 0)).sort_by("order")
    if asked.num_rows == 0:
        return documents
    topics: dict[str, list[str]] = {}
    for doc_id, tags in zip(asked["doc_id"].to_pylist(), asked["tags"].to_pylist(), strict=True):
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


def in_units(documents: pa.Table, units: Mapping[str, str]) -> pa.Table:
    """Documents with the unit of their group in place of the group, where near duplicates tie it to others."""
    if not units:
        return documents
    groups = [units.get(group, group) for group in documents["group"].to_pylist()]
    index = documents.schema.get_field_index("group")
    return documents.set_column(index, "group", pa.array(groups, pa.string()))


def _join(judgments: pa.Table, other: pa.Table, noun: str, tally: Counts) -> tuple[pa.Table, pa.Array, np.ndarray]:
    column = "query_id" if noun == "query" else "doc_id"
    rows = pc.index_in(judgments[column], other["id"].combine_chunks()).combine_chunks()
    found = rows.is_valid()
    lost = judgments.filter(pc.invert(found))
    tally.drop(f"judgment_without_{noun}", lost.num_rows)
    for row in lost.slice(0, EXAMPLES).to_pylist():
        tally.drop(f"judgment_without_{noun}", 0, f"{row['query_id']} -> {row['doc_id']} of {row['source']}")
    rows = rows.drop_null()
    index = judgments.schema.get_field_index(column)
    return judgments.filter(found).set_column(index, column, other["kept"].take(rows)), rows, found.to_numpy(False)


def positives(judged: Judged, config: PairConfig, tally: Counts) -> pa.Table:
    """Rows of table `pairs`: the judgments that are relevant enough, at most `max_per_query` of a query."""
    relevant = judged.judgments.filter(pc.greater_equal(judged.judgments["relevance"], config.min_relevance))
    tally.drop("over_max_per_document", pc.sum(relevant["over"]).as_py() or 0)
    relevant = relevant.filter(pc.invert(relevant["over"]))
    if config.max_per_query is not None:
        runs = [len(list(run)) for _, run in groupby(relevant["query_id"].to_pylist())]
        rank = np.concatenate([np.arange(run) for run in runs]) if runs else np.zeros(0, dtype=int)
        tally.drop("over_max_per_query", int((rank >= config.max_per_query).sum()))
        relevant = relevant.filter(pa.array(rank < config.max_per_query))
    at = pc.index_in(relevant["query_id"], judged.queries["query_id"].combine_chunks())
    columns = {
        "anchor_id": relevant["query_id"],
        "anchor": judged.queries["text"].take(at),
        "positive_id": relevant["doc_id"],
        "positive": relevant["text"],
        "source": relevant["source"],
        "split": relevant["split"],
        "group_id": judged.queries["group"].take(at),
        "relevance": pc.cast(relevant["relevance"], pa.float32()),
        "weight": _weights(relevant["relevance"], config),
        "reason": relevant["reason"],
    }
    return pa.table(columns, schema=TABLES["pairs"])


def _weights(grades: pa.ChunkedArray, config: PairConfig) -> pa.Array:
    """What pairs [N] of these grades count."""
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


def body_pairs(judged: Judged, pairs: pa.Table) -> pa.Table:
    """Rows of table `pairs`: each query's text with its body, and the body with each of the query's positives.

    A question's body says at length what its title says in a line: free supervision of the same meaning.
    """
    asked = judged.queries.filter(pc.greater(pc.utf8_length(pc.fill_null(judged.queries["body"], "")), 0))
    names = pc.binary_join_element_wise("b", asked["query_id"], "-")
    titles = {
        "anchor_id": asked["query_id"],
        "anchor": asked["text"],
        "positive_id": names,
        "positive": asked["body"],
        "source": asked["source"],
        "split": asked["split"],
        "group_id": asked["group"],
        "relevance": pa.array(np.ones(asked.num_rows, np.float32)),
        "weight": pa.nulls(asked.num_rows, pa.float32()),
        "reason": pa.array(["title-body"] * asked.num_rows, pa.string()),
    }
    place = pc.index_in(pairs["anchor_id"], asked["query_id"].combine_chunks())
    answered = pairs.filter(place.is_valid())
    place = place.drop_null()
    for name, column in (("anchor_id", names), ("anchor", asked["body"])):
        answered = answered.set_column(answered.schema.get_field_index(name), name, column.take(place))
    reason = pc.binary_join_element_wise("body", answered["reason"], ", ")
    answered = answered.set_column(answered.schema.get_field_index("reason"), "reason", reason)
    return pa.concat_tables([pa.table(titles, schema=TABLES["pairs"]), answered])
