"""Retrieval metrics by trec_eval's own code: nDCG, reciprocal rank, average precision, recall and hit rate."""

from collections.abc import Mapping, Sequence

from pipeline.core.errors import UserError
from pipeline.metrics.metric import Qrels, Rankings, RetrievalMetric

_HIGHEST_GRADE = 30  # 2^30 - 1 still fits the C code's 32-bit judgments


def gains(grades: Mapping[str, int]) -> dict[str, int]:
    """Turn graded judgments into gains 2^grade - 1, the exponential gain of nDCG; grades below 1 gain nothing.

    trec_eval's nDCG takes a judgment for the gain itself, so passing gains gives the exponential form. Every other
    metric only asks whether a judgment is at least 1, which gains leave as it was.
    """
    highest = max(grades.values(), default=0)
    if highest > _HIGHEST_GRADE:
        raise UserError(f"relevance {highest} is beyond {_HIGHEST_GRADE}; use graded judgments such as 0 to 3")
    return {doc: 2 ** max(0, int(grade)) - 1 for doc, grade in grades.items()}


def ndcg(rankings: Rankings, qrels: Qrels, k: int | None) -> dict[str, float]:
    """Normalised discounted cumulative gain of the first k documents, with gains 2^grade - 1 (Burges et al. 2005)."""
    return _evaluate("ndcg_cut", k, rankings, {query: gains(grades) for query, grades in qrels.items()})


def linear_ndcg(rankings: Rankings, qrels: Qrels, k: int | None) -> dict[str, float]:
    """Compute nDCG of the first k documents whose gain is the grade itself, as trec_eval, BEIR and MTEB have it."""
    linear = {query: {doc: max(0, int(grade)) for doc, grade in grades.items()} for query, grades in qrels.items()}
    return _evaluate("ndcg_cut", k, rankings, linear)


def recall(rankings: Rankings, qrels: Qrels, k: int | None) -> dict[str, float]:
    """Share of the relevant documents that are among the first k."""
    return _evaluate("recall", k, rankings, {query: gains(grades) for query, grades in qrels.items()})


def hit(rankings: Rankings, qrels: Qrels, k: int | None) -> dict[str, float]:
    """1 where a relevant document is among the first k, else 0; Sentence Transformers calls it accuracy@k."""
    return _evaluate("success", k, rankings, {query: gains(grades) for query, grades in qrels.items()})


def reciprocal_rank(rankings: Rankings, qrels: Qrels, k: int | None) -> dict[str, float]:
    """1 over the rank of the first relevant document, 0 where none is among the first k."""
    return _evaluate("recip_rank", None, _cut(rankings, k), {q: gains(grades) for q, grades in qrels.items()})


def average_precision(rankings: Rankings, qrels: Qrels, k: int | None) -> dict[str, float]:
    """Mean of the precision at each relevant document among the first k, over all relevant documents."""
    return _evaluate("map", None, _cut(rankings, k), {query: gains(grades) for query, grades in qrels.items()})


NDCG = RetrievalMetric("ndcg", "nDCG", ndcg, variants={"linear": linear_ndcg})
MRR = RetrievalMetric("mrr", "MRR", reciprocal_rank, cutoff="optional")
MAP = RetrievalMetric("map", "MAP", average_precision, cutoff="optional")
RECALL = RetrievalMetric("recall", "Recall", recall)
HIT = RetrievalMetric("hit", "Hit", hit)


def _cut(rankings: Rankings, k: int | None) -> Rankings:
    """Cut rankings to their first k documents: trec_eval cuts reciprocal rank and average precision nowhere."""
    return {query: docs[:k] for query, docs in rankings.items()}


def _evaluate(measure: str, k: int | None, rankings: Rankings, judgments: Qrels) -> dict[str, float]:
    """Run trec_eval once over all queries; one with an empty ranking, which trec_eval leaves out, has 0."""
    import pytrec_eval

    runs = {query: _falling_scores(rankings[query]) for query in judgments if rankings.get(query)}
    name = measure if k is None else f"{measure}.{k}"
    values = pytrec_eval.RelevanceEvaluator(judgments, {name}).evaluate(runs) if runs else {}
    key = name.replace(".", "_")
    return {query: float(values[query][key]) if query in values else 0.0 for query in judgments}


def _falling_scores(docs: Sequence[str]) -> dict[str, float]:
    """Give falling whole-number scores to a ranking, so that trec_eval's own rule for ties cannot reorder it."""
    return {doc: float(len(docs) - index) for index, doc in enumerate(docs)}
