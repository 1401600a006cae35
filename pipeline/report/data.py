"""The data of a report: the page is made of this and of nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class MetricInfo:
    """How the page writes a metric, and what it says about it.

    A metric is of a `task` unless it is one of rankings. `headline` ranks the task metrics that may lead the page: 1
    comes first, 0 never leads. `threshold` is the key of the cosine at which a score is reached.
    """

    label: str
    higher_is_better: bool = True
    task: bool = False
    headline: int = 0
    threshold: str = ""
    explanation: str = ""


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
class QueryGroup:
    """Queries that are alike in something, such as the length of their document, and each model's mean over them."""

    by: str
    name: str
    queries: int
    scores: Mapping[str, float]  # by model


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
    metric_info: Mapping[str, MetricInfo] = field(default_factory=dict)  # in the order of the page
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
    leakage: Mapping[str, Any] = field(default_factory=dict)  # the manifest's; empty where nothing was checked
    data: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    variants: list[dict[str, Any]] = field(default_factory=list)  # those of metrics.json
    document_maps: Mapping[str, DocumentMap] = field(default_factory=dict)  # by model
    document_map_method: str = ""
    systems: Mapping[str, str] = field(default_factory=dict)  # how each system ranks, by its name
    query_groups: list[QueryGroup] = field(default_factory=list)  # of the deciding metric
    unfound: list[str] = field(default_factory=list)  # texts of the queries for which no model finds anything
    truncation: list[str] = field(default_factory=list)  # sentences on what is cut off long texts

    def comparison(self, model: str, metric: str) -> dict[str, Any] | None:
        """Return the test of one model and metric against the baseline."""
        tests = self.against_baseline()
        return next((test for test in tests if (test["model"], test["metric"]) == (model, metric)), None)

    def against_baseline(self) -> list[dict[str, Any]]:
        """Return the tests against the baseline."""
        return [test for test in self.comparisons if test["baseline"] == self.baseline]

    def label(self, metric: str) -> str:
        """Write a metric as papers do: ndcg@10 is nDCG@10; a name that no metric has stays as it is."""
        return self.metric_info[metric].label if metric in self.metric_info else metric.replace("_", " ")

    def task_metrics(self) -> list[str]:
        """Names of the metrics of other tasks than retrieval, in the order of the page."""
        return [name for name, info in self.metric_info.items() if info.task]

    def headline_tasks(self) -> list[str]:
        """Names of the task metrics that may lead the page, first the one that leads before the others."""
        names = [name for name in self.task_metrics() if self.metric_info[name].headline]
        return sorted(names, key=lambda name: self.metric_info[name].headline)

    def measured(self, metrics: Sequence[str]) -> list[str]:
        """Return those of some metrics that any model has."""
        return [metric for metric in metrics if any(metric in scores for scores in self.scores.values())]

    def deciding_metric(self) -> str | None:
        """Name the metric that decides: the first of the recipe, else the first task metric that was measured."""
        measured = self.measured([*self.metrics, *self.task_metrics()])
        return measured[0] if measured else None

    def best(self, metric: str) -> str | None:
        """Name the first model with the best score on a metric; None where no model has one."""
        scores = {model: of_model[metric] for model, of_model in self.scores.items() if metric in of_model}
        better = min if self.lower_is_better(metric) else max
        return better(scores, key=lambda model: scores[model]) if scores else None

    def lower_is_better(self, metric: str) -> bool:
        """Whether a smaller score is the better one."""
        return metric in self.metric_info and not self.metric_info[metric].higher_is_better

    def threshold_of(self, metric: str) -> str:
        """Key of the cosine at which a metric's score is reached; empty where it has none."""
        return self.metric_info[metric].threshold if metric in self.metric_info else ""
