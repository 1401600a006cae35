"""A ranking, scored: with its document ids, its values query by query, and their means."""

from pipeline.evaluation import scores
from pipeline.evaluation.results import EvaluationPlan, Results
from pipeline.evaluation.tuning import name_rows
from pipeline.metrics.retrieval import retrieval
from pipeline.search.exact import TopK


def keep_ranking(results: Results, name: str, best: TopK, plan: EvaluationPlan) -> None:
    """Keep the ranking of a model: that of the split is scored, that of the tuning queries behind it is kept aside."""
    queries = len(results.dataset.query_ids)
    results.tuning[name] = TopK(best.scores[queries:], best.rows[queries:])
    score_ranking(results, name, TopK(best.scores[:queries], best.rows[:queries]), plan)


def score_ranking(results: Results, name: str, best: TopK, plan: EvaluationPlan) -> None:
    """Keep a ranking with its document ids, and its scores on the metrics of rankings."""
    results.best[name] = best
    results.docs[name] = document_ids(results, best)
    results.values[name] = retrieval(results.docs[name], results.dataset.qrels, plan.metrics)
    results.scores[name] = scores.mean_scores(results.values[name], plan.seed)


def document_ids(results: Results, best: TopK) -> dict[str, list[str]]:
    """Ids of the documents of a ranking of the split's queries, by query; one pass over the corpus."""
    return name_rows(results.dataset.query_ids, best, results.corpus.take(best.rows[best.rows >= 0], ["doc_id"]))
