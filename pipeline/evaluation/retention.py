"""Guards: other corpora on which every model is evaluated too, to see what training made it forget."""

import re
from dataclasses import dataclass, replace

from pydantic import Field, field_validator

from pipeline.building.corpus_reference import CorpusReference
from pipeline.core.progress import say
from pipeline.evaluation.dataset import EvalDataset, read_dataset
from pipeline.evaluation.evaluator import evaluate
from pipeline.evaluation.results import EvaluationPlan, tests
from pipeline.report.data import RetentionResult
from pipeline.storage.artifact import Artifact

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Guard(CorpusReference):
    """A corpus on which the models shall not get worse."""

    name: str = Field(description="its name in the report")
    split: str = Field("dev", description="split whose queries are evaluated")
    max_queries: int | None = Field(
        None, ge=1, description="evaluate only the first queries that have a relevant document"
    )

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("use letters, digits, _ . and -")
        return name


@dataclass(frozen=True)
class GuardDataset:
    """The settings of a guard, its build artifact and the split that is evaluated."""

    guard: Guard
    data: Artifact
    dataset: EvalDataset


def open_guards(guards: list[Guard], max_triplets: int) -> list[GuardDataset]:
    """Open every guard and read its split, so that one that cannot be evaluated is refused before any work."""
    opened = [(guard, guard.open()) for guard in guards]
    return [
        GuardDataset(guard, data, read_dataset(data, guard.split, guard.max_queries, max_triplets))
        for guard, data in opened
    ]


def evaluate_guard(opened: GuardDataset, plan: EvaluationPlan, baseline: str) -> RetentionResult:
    """Evaluate every model of the plan on a guard and test it against the baseline, paired by query."""
    guard, dataset = opened.guard, opened.dataset
    say(f"evaluate: guard {guard.name}, split {guard.split}")
    of_guard = replace(plan, variants=None, variant_models=(), systems=(), passages=(), split=guard.split)
    results = evaluate(opened.data, dataset, of_guard)
    return RetentionResult(
        name=guard.name,
        split=guard.split,
        queries=len(dataset.query_ids),
        documents=len(results.corpus),
        models=results.scores,
        comparisons=tests(results, baseline, plan.seed),
        skipped=dataset.skipped,
    )
