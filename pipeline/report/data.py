"""What a report tells, as plain data: it is drawn from this and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Hit:
    """One document of a ranking, as shown."""

    rank: int
    text: str
    relevant: bool


@dataclass(frozen=True)
class Example:
    """A query that one model answers better than another: the metric before and after, the first documents of both."""

    query: str
    before: float
    after: float
    answers: Mapping[str, list[Hit]]  # by model
    wanted: str  # text of a relevant document


@dataclass(frozen=True)
class Landscape:
    """Documents of the corpus in two dimensions [N, 2], in the unit square, with their texts and colours' names."""

    points: npt.NDArray[np.float32]
    names: list[str]
    texts: list[str]


@dataclass(frozen=True)
class Kept:
    """What was measured on a guard, as metrics.json has it: a corpus that training was not about."""

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
class Findings:
    """Everything that the page shows; `figures` and `comparisons` are those of metrics.json."""

    run: str
    split: str
    queries: int
    documents: int
    baseline: str
    subject: str  # the model that the headline is about; the baseline when it is alone
    metrics: list[str]
    figures: Mapping[str, Mapping[str, Any]]
    comparisons: list[dict[str, Any]]
    guards: list[Kept] = field(default_factory=list)
    labelled_pairs: int = 0
    triplet_source: str = ""
    curves: list[dict[str, Any]] = field(default_factory=list)
    similarities: Mapping[str, Mapping[str, npt.NDArray[np.float32]]] = field(default_factory=dict)
    won: list[Example] = field(default_factory=list)
    lost: list[Example] = field(default_factory=list)
    skipped: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    leakage: Mapping[str, Any] = field(default_factory=dict)  # the manifest's; empty where it was not looked for
    data: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    variants: list[dict[str, Any]] = field(default_factory=list)  # those of metrics.json
    landscapes: Mapping[str, Landscape] = field(default_factory=dict)  # by model
    landscape_method: str = ""

    def comparison(self, model: str, metric: str) -> dict[str, Any] | None:
        """Return the test of one model and metric against the baseline."""
        return next((c for c in self.against() if (c["model"], c["metric"]) == (model, metric)), None)

    def against(self) -> list[dict[str, Any]]:
        """Return the tests against the baseline."""
        return [test for test in self.comparisons if test["baseline"] == self.baseline]
