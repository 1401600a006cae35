"""Rank by systems: each is made of rankings that are there already, with its open settings chosen on other queries."""

from typing import Any

from pipeline.evaluation.results import BM25, EvaluationPlan, Results, SystemResult
from pipeline.evaluation.scored_ranking import score_ranking
from pipeline.evaluation.system import System
from pipeline.evaluation.tuning import Tuning
from pipeline.metrics.registry import higher_is_better
from pipeline.metrics.retrieval import depth, mean, retrieval
from pipeline.search.exact import TopK


def rank_systems(results: Results, plan: EvaluationPlan, tuning: Tuning) -> None:
    """Rank and score every system of the plan with each of its encoders."""
    for system in plan.systems if BM25 in results.best else ():
        for model in system.models or plan.models:
            chosen, how = _choose(system, model, results, tuning, plan.metrics[0])
            name = f"{model}-{system.label}"
            best = chosen.rank(*_rankings(results.best, model, system.top), depth(plan.metrics))
            score_ranking(results, name, best, plan)
            results.systems[name] = SystemResult(model, chosen, how)
            results.scores[name]["system"] = results.systems[name].as_json()


def _rankings(best: dict[str, TopK], model: str, top: int) -> tuple[TopK, TopK]:
    """First places of the encoder's ranking and of BM25's."""
    dense, lexical = (TopK(best[name].scores[:, :top], best[name].rows[:, :top]) for name in (model, BM25))
    return dense, lexical


def _choose(system: System, model: str, results: Results, tuning: Tuning, metric: str) -> tuple[System, dict[str, Any]]:
    """The system with the best of its choices on the tuning queries, and how that came about; the first of equal ones.

    It is left as it is where it has no choices, or where there are no queries to choose on.
    """
    choices = system.choices()
    if not choices or tuning.queries is None:
        return system, {"reason": tuning.reason} if choices else {}
    rankings, k = _rankings(results.tuning, model, system.top), depth([metric])
    found = [_score(choice.rank(*rankings, k), results, tuning, metric) for choice in choices]
    best = (max if higher_is_better(metric) else min)(range(len(found)), key=found.__getitem__)
    named = {choice.describe(): score for choice, score in zip(choices, found, strict=True)}
    facts = {"split": tuning.split, "queries": len(tuning.dataset.query_ids), "metric": metric, "scores": named}
    return choices[best], facts


def _score(best: TopK, results: Results, tuning: Tuning, metric: str) -> float:
    """Mean of a metric over the tuning queries."""
    documents = results.corpus.take(best.rows[best.rows >= 0], ["doc_id"])
    rankings = {
        query: [documents[row]["doc_id"] for row in rows[rows >= 0].tolist()]
        for query, rows in zip(tuning.dataset.query_ids, best.rows, strict=True)
    }
    return round(mean(retrieval(rankings, tuning.dataset.qrels, [metric])[metric]), 6)
