"""Rank by systems: each is made of rankings that are there already, with its open settings chosen on other queries."""

from typing import Any

from pipeline.evaluation.reranking import rerank
from pipeline.evaluation.results import BM25, EvaluationPlan, Results, SystemResult
from pipeline.evaluation.scored_ranking import score_ranking
from pipeline.evaluation.tuning import Tuning
from pipeline.metrics.retrieval import depth
from pipeline.search.exact import TopK
from pipeline.search.fusion import first
from pipeline.search.rerank import Rerank
from pipeline.search.system import System


def rank_systems(results: Results, plan: EvaluationPlan, tuning: Tuning) -> None:
    """Rank and score every system of the plan with each of its encoders."""
    for system in plan.systems if BM25 in results.best else ():
        for model in system.models or [*plan.models, *results.passages]:
            chosen, how = _choose(system, model, results, tuning, plan.metrics[0])
            name = f"{model}-{system.label}"
            best = chosen.rank(*_rankings(results.best, model, system.joined), depth(plan.metrics))
            if isinstance(chosen, Rerank):
                queries = results.dataset.texts[: len(results.dataset.query_ids)]
                best = rerank(chosen, best, queries, results.corpus, plan.actors, name)
            score_ranking(results, name, best, plan)
            results.systems[name] = SystemResult(model, chosen, how)
            results.scores[name]["system"] = results.systems[name].as_json()


def _rankings(best: dict[str, TopK], model: str, top: int) -> tuple[TopK, TopK]:
    """First places of the encoder's ranking and of BM25's."""
    return first(best[model], top), first(best[BM25], top)


def _choose(system: System, model: str, results: Results, tuning: Tuning, metric: str) -> tuple[System, dict[str, Any]]:
    """The system with the best of its choices on the tuning queries, and how that came about; the first of equal ones.

    It is left as it is where it has no choices, or where there are no queries to choose on.
    """
    choices = system.choices()
    if not choices or tuning.queries is None:
        return system, {"reason": tuning.reason} if choices else {}
    rankings, k = _rankings(results.tuning, model, system.joined), depth([metric])
    best = [choice.rank(*rankings, k) for choice in choices]
    index, facts = tuning.best(results.corpus, best, [choice.describe() for choice in choices], metric)
    return choices[index], facts
