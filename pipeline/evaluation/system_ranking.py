"""Rank by systems: each is made of rankings that are there already, with its open settings chosen on other queries."""

from typing import Any

import numpy as np

from pipeline.evaluation.results import BM25, EvaluationPlan, Results, SystemResult
from pipeline.evaluation.scored_ranking import name_rows, score_ranking
from pipeline.evaluation.system import System
from pipeline.evaluation.tuning import Tuning
from pipeline.metrics.registry import higher_is_better
from pipeline.metrics.retrieval import depth, mean, retrieval
from pipeline.search.exact import TopK
from pipeline.search.fusion import first


def rank_systems(results: Results, plan: EvaluationPlan, tuning: Tuning) -> None:
    """Rank and score every system of the plan with each of its encoders."""
    for system in plan.systems if BM25 in results.best else ():
        for model in system.models or [*plan.models, *results.passages]:
            chosen, how = _choose(system, model, results, tuning, plan.metrics[0])
            name = f"{model}-{system.label}"
            best = chosen.rank(*_rankings(results.best, model, system.top), depth(plan.metrics))
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
    rankings, k = _rankings(results.tuning, model, system.top), depth([metric])
    rows = np.concatenate([ranking.rows.ravel() for ranking in rankings])
    documents = results.corpus.take(rows[rows >= 0], ["doc_id"])  # of all choices, in one pass over the corpus
    named = [name_rows(tuning.dataset.query_ids, choice.rank(*rankings, k), documents) for choice in choices]
    scores = [round(mean(retrieval(ranking, tuning.dataset.qrels, [metric])[metric]), 6) for ranking in named]
    best = (max if higher_is_better(metric) else min)(range(len(scores)), key=scores.__getitem__)
    facts = {"split": tuning.split, "queries": len(tuning.dataset.query_ids), "metric": metric}
    facts["scores"] = {choice.describe(): score for choice, score in zip(choices, scores, strict=True)}
    return choices[best], facts
