"""Figures of groups of queries: by the length of the right document and of the query, by its category and source.

A mean hides where a model wins: one that reads only the start of a document loses on long ones, BM25 on queries that
share no word with their document. Groups are of the data alone, so that all models are compared on the same ones.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.results import Results
from pipeline.report.data import QueryGroup

MIN_QUERIES = 5  # of a group that is told
MAX_LABELS = 8  # categories or sources, those with the most queries; others share a group
OTHERS, NONE = "others", "none"

Labels = tuple[list[str], list[str]]  # of each query; and the distinct ones in the order in which they are told


def query_groups(results: Results, metric: str) -> list[QueryGroup]:
    """Means of a metric over groups of the judged queries, for every model; empty where queries cannot be told apart.

    The document of a query is its most relevant one, of equal ones the first of the corpus. Lengths, in characters, are
    cut into thirds of the queries.
    """
    queries, documents = results.dataset.query_ids, _best_documents(results)
    rows = [index for index, query in enumerate(queries) if query in documents]
    names = [queries[index] for index in rows]
    if not names:
        return []
    of_document = [documents[name] for name in names]
    labels = {
        "characters of the document": _thirds([len(document["text"]) for document in of_document]),
        "characters of the query": _thirds([len(results.dataset.texts[index]) for index in rows]),
        "category of the document": _most_common([document["category"] for document in of_document]),
        "source": _most_common([document["source"] for document in of_document]),
    }
    return [group for by, of_queries in labels.items() for group in _means(results, metric, by, names, of_queries)]


def _means(results: Results, metric: str, by: str, queries: Sequence[str], labels: Labels) -> list[QueryGroup]:
    """Groups of queries with the same label; none where fewer than two are large enough."""
    of_query, order = labels
    members: dict[str, list[str]] = {label: [] for label in order}
    for query, label in zip(queries, of_query, strict=True):
        members[label].append(query)
    groups = [
        QueryGroup(by, label, len(of_label), _mean_scores(results, metric, of_label))
        for label, of_label in members.items()
        if len(of_label) >= MIN_QUERIES
    ]
    return groups if len(groups) > 1 else []


def _mean_scores(results: Results, metric: str, queries: Sequence[str]) -> dict[str, float]:
    return {
        model: float(np.mean([values[metric][query] for query in queries]))
        for model, values in results.values.items()
        if metric in values
    }


def _best_documents(results: Results) -> dict[str, dict[str, Any]]:
    """Text, category and source of the most relevant document of each query that has one in the corpus."""
    relevant = {
        query: {doc: grade for doc, grade in results.dataset.qrels[query].items() if grade > 0}
        for query in results.dataset.query_ids
    }
    row_of = results.corpus.find({doc for grades in relevant.values() for doc in grades})
    best = {
        query: min((-grade, row_of[doc]) for doc, grade in grades.items() if doc in row_of)[1]
        for query, grades in relevant.items()
        if any(doc in row_of for doc in grades)
    }
    documents = results.corpus.take(best.values(), ["text", "category", "source"])
    return {query: documents[row] for query, row in best.items()}


def _thirds(lengths: Sequence[int]) -> Labels:
    """Label lengths by the third of all that they are in: up to 80, 81 to 200, over 200; equal ones share a label."""
    low, high = (int(np.quantile(lengths, share, method="inverted_cdf")) for share in (1 / 3, 2 / 3))
    order = [f"up to {low:,}", f"over {high:,}"]
    if low < high:
        order.insert(1, f"{low + 1:,} to {high:,}")
    thirds = np.searchsorted([low, high] if low < high else [low], lengths, side="left")
    return [order[third] for third in thirds.tolist()], order


def _most_common(values: Sequence[str | None]) -> Labels:
    """Label values by themselves, the most common first; all that are left share a label."""
    names = [value or NONE for value in values]
    order = [name for name, _ in Counter(names).most_common(MAX_LABELS)]
    return [name if name in order else OTHERS for name in names], list(dict.fromkeys([*order, OTHERS]))


def unfound(results: Results, metric: str) -> list[str]:
    """Texts of the judged queries for which no model finds anything: the metric of each is 0."""
    values = [of_model[metric] for of_model in results.values.values() if metric in of_model]
    queries = zip(results.dataset.query_ids, results.dataset.texts, strict=False)
    return [text for query, text in queries if values and not any(of_model[query] for of_model in values)]
