"""Guards: other corpora on which every model is measured too, to see what training made them forget."""

import re
from dataclasses import dataclass, replace

from pydantic import Field, field_validator

from pipeline.building.corpus_reference import CorpusReference
from pipeline.core.progress import say
from pipeline.evaluation.dataset import Questions, read_questions
from pipeline.evaluation.evaluator import measure
from pipeline.evaluation.results import Plan, tests
from pipeline.report.data import Kept
from pipeline.storage.artifact import Artifact

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Guard(CorpusReference):
    """A corpus whose figures shall not fall."""

    name: str = Field(description="how the report calls it")
    split: str = Field("dev", description="split whose queries are asked")
    max_queries: int | None = Field(None, ge=1, description="ask only the first queries that have a relevant document")

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("use letters, digits, _ . and -")
        return name


@dataclass(frozen=True)
class Watch:
    """A guard that was found, and what is asked of it."""

    guard: Guard
    data: Artifact
    questions: Questions


def watch(guards: list[Guard], max_triplets: int) -> list[Watch]:
    """Open every guard and read its questions, so that one that cannot be measured is refused before any work."""
    opened = [(guard, guard.open()) for guard in guards]
    return [
        Watch(guard, data, read_questions(data, guard.split, guard.max_queries, max_triplets)) for guard, data in opened
    ]


def measure_guard(watched: Watch, plan: Plan, baseline: str) -> Kept:
    """Measure every model of the plan on a guard and test it against the baseline, paired by query."""
    guard, questions = watched.guard, watched.questions
    say(f"evaluate: guard {guard.name}, split {guard.split}")
    measured = measure(watched.data, questions, replace(plan, variants=None, shrunk=()))
    return Kept(
        name=guard.name,
        split=guard.split,
        queries=len(questions.query_ids),
        documents=len(measured.corpus),
        models=measured.figures,
        comparisons=tests(measured, baseline, plan.seed),
        skipped=questions.skipped,
    )
