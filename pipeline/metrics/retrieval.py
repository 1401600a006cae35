"""Scores of rankings, query by query, on the metrics that a recipe names.

`ndcg@10`, `mrr@10`, `map`, `recall@100`, `hit@1`: any cut-off works. `ndcg@10:judged` first drops documents that nobody
judged from a ranking (trec_eval -J; condensed lists, Sakai 2007), `ndcg@10:linear` takes the grade itself for the gain,
as trec_eval, BEIR and MTEB do, and `judged@10` is the share of the first ten that somebody judged.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.metrics.metric import PerQuery, Qrels, Rankings
from pipeline.metrics.registry import parse_metric

DEFAULT_METRICS = ("ndcg@10", "mrr@10", "map", "recall@100", "hit@1")


def depth(names: Sequence[str]) -> int:
    """How many documents a ranking must hold for these metrics: the largest cut-off, at least 100."""
    return max([100, *(parse_metric(name).cutoff or 0 for name in names)])


def relevant(grades: Mapping[str, int]) -> list[str]:
    """Documents judged relevant, best grade first, then by id."""
    return sorted((doc for doc, grade in grades.items() if grade > 0), key=lambda doc: (-grades[doc], doc))


def retrieval(rankings: Rankings, qrels: Qrels, names: Sequence[str] = DEFAULT_METRICS) -> PerQuery:
    """Score rankings (document ids, best first) against judgments: {metric: {query: value}}.

    Every judged query with a relevant document counts, also where its ranking is missing or empty; queries without one
    are skipped, since no ranking of theirs can be right or wrong. Raises UserError on a name that no metric has.

    >>> retrieval({"q": ["x", "a"]}, {"q": {"a": 1}}, ["mrr@10"])
    {'mrr@10': {'q': 0.5}}
    """
    scorable = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    return {name: parse_metric(name).score(rankings, scorable) for name in names}


def mean(values: Mapping[str, float]) -> float:
    """Mean over queries; 0 of none."""
    return float(np.mean(list(values.values()))) if values else 0.0
