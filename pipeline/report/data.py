"""The data of a report: the page is made of this and of nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Hit:
    """One document of a ranking."""

    rank: int
    text: str
    relevant: bool


@dataclass(frozen=True)
class Example:
    """A query whose metric differs between two models, with the first documents of both."""

    query: str
    before: float
    after: float
    answers: Mapping[str, list[Hit]]  # by model
    relevant: str  # text of a relevant document


@dataclass(frozen=True)
class DocumentMap:
    """Documents of the corpus as points [N, 2] in the unit square, each with its group's name and its text."""

    points: npt.NDArray[np.float32]
    names: list[str]
    texts: list[str]


@dataclass(frozen=True)
class RetentionResult:
    """Scores on a guard, a corpus that training was not about, as metrics.json has them."""

    name: str
    split: str
    queries: int
    documents: int
    models: Mapping[str, Mapping[str, Any]]
    comparisons: list[dict[str, Any]]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def comparison(self, model: str, metric: str) -> dict[str, Any] | None:
        """Return the test of one model and metric against the baseline."""
        return next((c for c in self.comparisons if (c["model"], c["metric"]) == (model, metric)), None)


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows; `scores` and `comparisons` are those of metrics.json."""

    run: str
    split: str
    queries: int
    documents: int
    baseline: str
    subject: str  # the model that the headline is about; the baseline when it is alone
    metrics: list[str]
    scores: Mapping[str, Mapping[str, Any]]
    comparisons: list[dict[str, Any]]
    guards: list[RetentionResult] = field(default_factory=list)
    scored_pairs: int = 0
    triplet_source: str = ""
    curves: list[dict[str, Any]] = field(default_factory=list)
    similarities: Mapping[str, Mapping[str, npt.NDArray[np.float32]]] = field(default_factory=dict)
    won: list[Example] = field(default_factory=list)
    lost: list[Example] = field(default_factory=list)
    skipped: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    leakage: Mapping[str, Any] = field(
        default_factory=dict
    )  # the manifest's; empty where training rows were not checked
    data: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    variants: list[dict[str, Any]] = field(default_factory=list)  # those of metrics.json
    document_maps: Mapping[str, DocumentMap] = field(default_factory=dict)  # by model
    document_map_method: str = ""

    def comparison(self, model: str, metric: str) -> dict[str, Any] | None:
        """Return the test of one model and metric against the baseline."""
        return next((c for c in self.against() if (c["model"], c["metric"]) == (model, metric)), None)

    def against(self) -> list[dict[str, Any]]:
        """Return the tests against the baseline."""
        return [test for test in self.comparisons if test["baseline"] == self.baseline]
