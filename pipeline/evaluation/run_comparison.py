"""Several finished runs beside each other, on the queries that all of them were measured on.

    comparison = compare_runs(["runs/shop", "runs/shop-mined"])
    comparison.report.comparisons  # every model against the first run's, paired by query, corrected by Holm

A model is called by its run and its own name, as in `shop-mined/tuned`. Models of one name with the same value on every
query, such as the untrained one and BM25 of runs on the same data, are one row under their own name.
"""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import UserError
from pipeline.evaluation.comparisons import compare, model_pairs
from pipeline.evaluation.outputs import print_table, read_curves
from pipeline.evaluation.report_data import environment, headline_model, metric_info
from pipeline.evaluation.scores import mean_scores
from pipeline.metrics.metric import PerQuery
from pipeline.metrics.registry import higher_is_better
from pipeline.report.data import ReportData
from pipeline.report.run_comparison import Change, RunComparison, RunCosts
from pipeline.report.training_log import seconds_of_steps
from pipeline.storage.artifact import CONFIG, MANIFEST, Artifact
from pipeline.storage.files import absolute, filesystem, join, read_json

SECTIONS = {"build": "data", "mine": "negatives", "train": "training", "evaluate": "report"}  # folders of a run
WHERE_AND_HOW = frozenset({"run", "data", "out", "root", "overwrite", "resume", "fresh", "training", "vectors"})
CHANGES = 10  # queries shown whose metric differs most, each way
FACTS = ("layers", "of", "dim")  # of a model, beside its scores


@dataclass(frozen=True)
class MeasuredRun:
    """A run with its report: name, folders, metrics.json, values by model, metric and query, and texts of queries."""

    name: str
    home: str
    report: Artifact
    metrics: Mapping[str, Any]
    values: Mapping[str, PerQuery]
    texts: Mapping[str, str]

    @classmethod
    def open(cls, path: str) -> "MeasuredRun":
        """Open the directory of a run; raises UserError where it has no finished report of ranked queries."""
        home = absolute(path).rstrip("/")
        folder = join(home, "report")
        report = Artifact.open(folder, "evaluate")
        if not report.has("per_query"):
            raise UserError(f"{folder}: has no ranked queries to compare, only pairs or triplets")
        table = report.read("per_query")
        metrics = [name for name in table.column_names if name not in ("model", "query_id")]
        values: dict[str, PerQuery] = {}
        described = read_json(join(folder, "metrics.json"))
        for row in table.to_pylist():
            if row["model"] not in described["models"]:
                continue  # a variant of a model's vectors
            of_model = values.setdefault(row["model"], {metric: {} for metric in metrics})
            for metric in metrics:
                of_model[metric][row["query_id"]] = row[metric]
        name = home.rsplit("/", 1)[-1]
        return cls(name, home, report, described, values, _query_texts(folder))

    @property
    def subject(self) -> str:
        """The model that the run is about: the tuned one, where there is one."""
        return headline_model(list(self.values), str(self.metrics["baseline"]))

    def settings(self) -> dict[str, str]:
        """Settings of its jobs as paths and texts, without those of where and how it was carried out."""
        flat: dict[str, str] = {}
        for section, folder in SECTIONS.items():
            fs, path = filesystem(join(self.home, folder, CONFIG))
            if fs.exists(path):
                settings = read_json(join(self.home, folder, CONFIG))
                _flatten(section, {k: v for k, v in settings.items() if k not in WHERE_AND_HOW}, flat)
        return flat

    def costs(self) -> RunCosts:
        """Training rows, steps and seconds, as far as the run has a training."""
        folder = join(self.home, SECTIONS["train"])
        fs, path = filesystem(join(folder, MANIFEST))
        if not fs.exists(path):
            return RunCosts()
        log = read_curves(folder)
        steps = max((row["step"] for row in log if "loss" in row), default=0)
        rows = Artifact.open(folder, "train").manifest.notes.get("rows")
        return RunCosts(rows, steps, seconds_of_steps(log))


def compare_runs(paths: Sequence[str], baseline: str | None = None, metric: str | None = None) -> RunComparison:
    """Compare the models of several runs on the queries that all of them have.

    `baseline` names the model that the others are tested against, by default the first run's own; `metric` the one that
    decides, by default the first of the first run. Raises UserError for a path without a report, two runs of one name,
    runs without a common query, and names that are not there.
    """
    runs = [MeasuredRun.open(path) for path in paths]
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two runs are called {twice[0]}; compare needs runs whose folders have different names")
    if len(runs) < 2:
        raise UserError("compare takes two runs at least, such as `tripletail compare runs/a runs/b`")
    queries = set.intersection(*(_queries(run) for run in runs))
    if not queries:
        raise UserError(f"{', '.join(names)}: have no query in common, so their figures cannot be compared")
    metrics = _common_metrics(runs, metric)
    values, scores = _rows(runs, queries, metrics)
    compared_with = baseline or _name(values, runs[0], runs[0].subject)
    if compared_with not in values:
        raise UserError(f"baseline '{compared_with}' is not among the models; choose from {', '.join(values)}")
    subject = _best(values, metrics[0], compared_with)
    report = _report(", ".join(names), runs[0], values, scores, compared_with, subject)
    return RunComparison(
        report,
        title=f"Comparison of {report.run}",
        scope=f"{report.queries:,} queries of split {report.split} that all runs were measured on",
        notes=_notes(runs, queries),
        settings=_differing({run.name: run.settings() for run in runs}),
        costs={run.name: run.costs() for run in runs},
        changes=_changes(values, report, runs[0].texts),
    )


def pool_folds(paths: Sequence[str]) -> RunComparison:
    """Pool the folds of a cross-validation: each query counts in the fold that held it out, for every model.

    Raises UserError where a query was held out twice, which happens where the sources state their splits themselves,
    and where the folds do not have the same models.
    """
    folds = [MeasuredRun.open(path) for path in paths]
    metrics, models = _common_metrics(folds, None), list(folds[0].values)
    values: dict[str, PerQuery] = {model: {metric: {} for metric in metrics} for model in models}
    for fold in folds:
        if list(fold.values) != models:
            raise UserError(f"{fold.home}: has the models {', '.join(fold.values)}, not {', '.join(models)}")
        if again := sorted(_queries(fold) & set(values[models[0]][metrics[0]])):
            raise UserError(
                f"{fold.home}: query {again[0]} is held out in two folds; where sources state splits, these stay as "
                "they are, and there is nothing to cross-validate"
            )
        for model, of_model in fold.values.items():
            for metric in metrics:
                values[model][metric] |= of_model[metric]
    scores = {model: _scores(folds[0], model, values[model]) for model in models}
    home = folds[0].home.rsplit("/", 2)[0]
    report = _report(home, folds[0], values, scores, str(folds[0].metrics["baseline"]), folds[0].subject)
    texts = {query: text for fold in folds for query, text in fold.texts.items()}
    return RunComparison(
        report,
        title=f"Cross-validation of {report.run}",
        scope=f"{report.queries:,} queries in {len(folds)} folds, each asked of a model that was trained without it",
        changes=_changes(values, report, texts),
    )


def _report(
    name: str,
    first: MeasuredRun,
    values: Mapping[str, PerQuery],
    scores: Mapping[str, Mapping[str, Any]],
    baseline: str,
    subject: str,
) -> ReportData:
    """The data of a page on models with these values; split and documents are those of the first run."""
    metrics = list(values[subject])
    return ReportData(
        run=name,
        split=str(first.metrics["split"]),
        queries=len(values[subject][metrics[0]]),
        documents=int(first.metrics["documents"]),
        baseline=baseline,
        subject=subject,
        metrics=metrics,
        scores=scores,
        comparisons=compare(values, model_pairs(values, baseline), seed=0),
        metric_info=metric_info(metrics),
        environment=environment(),
    )


def print_comparison(comparison: RunComparison) -> None:
    """Print the models with the corrected p-value of the deciding metric, and the settings that differ."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    report = comparison.report
    console = Console(width=None if sys.stdout.isatty() else 120)
    title = f"{comparison.scope}; p: against {report.baseline}"
    print_table(report.scores, report.comparisons, report.metrics, title)
    if differing := comparison.settings_table():
        table = Table(*differing.head, title="Settings that differ", title_justify="left", box=box.SIMPLE)
        for cells in differing.rows:
            table.add_row(*(Text(cell.text) for cell in cells))
        console.print(table)
    for sentence in (f"{comparison.headline()}.", *comparison.remarks()):
        console.print(Text(sentence))


def _queries(run: MeasuredRun) -> set[str]:
    return {query for of_model in run.values.values() for of_metric in of_model.values() for query in of_metric}


def _common_metrics(runs: Sequence[MeasuredRun], metric: str | None) -> list[str]:
    """Metrics that every run has, the deciding one first."""
    common = [name for name in runs[0].values[runs[0].subject] if all(name in run.values[run.subject] for run in runs)]
    if not common or (metric and metric not in common):
        raise UserError(f"the runs have these metrics in common: {', '.join(common) or 'none'}; choose one of them")
    first = metric or common[0]
    return [first, *(name for name in common if name != first)]


def _rows(
    runs: Sequence[MeasuredRun], queries: set[str], metrics: Sequence[str]
) -> tuple[dict[str, PerQuery], dict[str, dict[str, Any]]]:
    """Values on the common queries and scores by model, each model once."""
    values: dict[str, PerQuery] = {}
    scores: dict[str, dict[str, Any]] = {}
    ordered = sorted(queries)
    for run in runs:
        for model, of_model in run.values.items():
            here = {metric: {query: of_model[metric][query] for query in ordered} for metric in metrics}
            name = model if _is_shared(runs, model, ordered, metrics) else f"{run.name}/{model}"
            if name not in values:
                values[name], scores[name] = here, _scores(run, model, here)
    return values, scores


def _scores(run: MeasuredRun, model: str, values: PerQuery) -> dict[str, Any]:
    """Means of values with their intervals, beside what the report says of the model: layers and dimensions."""
    facts = {key: value for key, value in run.metrics["models"][model].items() if key in FACTS}
    return {**facts, **mean_scores(values, seed=0)}


def _is_shared(runs: Sequence[MeasuredRun], model: str, queries: Sequence[str], metrics: Sequence[str]) -> bool:
    """Whether all runs have a model of this name with the same values."""
    every = [run.values.get(model) for run in runs]
    return all(
        one is not None and every[0] is not None and one[metric][query] == every[0][metric][query]
        for one in every
        for metric in metrics
        for query in queries
    )


def _name(values: Mapping[str, PerQuery], run: MeasuredRun, model: str) -> str:
    return f"{run.name}/{model}" if f"{run.name}/{model}" in values else model


def _best(values: Mapping[str, PerQuery], metric: str, baseline: str) -> str:
    """The model with the best mean among those that are not the baseline."""
    sign = 1 if higher_is_better(metric) else -1
    others = [name for name in values if name != baseline]
    return max(others, key=lambda name: sign * sum(values[name][metric].values())) if others else baseline


def _notes(runs: Sequence[MeasuredRun], queries: set[str]) -> list[str]:
    """Say where the runs were not measured on the same."""
    notes = []
    if len({run.report.manifest.inputs.get("data") for run in runs}) > 1:
        notes.append(
            "The runs were measured on different builds: documents and judgments may differ, and with them the figures."
        )
    for run in runs:
        if others := len(_queries(run)) - len(queries):
            notes.append(f"{run.name} has {others:,} more queries, which do not count here.")
    if len({run.metrics["split"] for run in runs}) > 1:
        splits = [f"{run.name} on {run.metrics['split']}" for run in runs]
        notes.append(f"They were measured on different splits: {', '.join(splits)}.")
    return notes


def _differing(settings: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Settings that are not the same in all runs, by path and run; empty texts where a run has none."""
    paths = dict.fromkeys(path for of_run in settings.values() for path in of_run)
    by_path = {path: {run: of_run.get(path, "") for run, of_run in settings.items()} for path in paths}
    return {path: of_runs for path, of_runs in by_path.items() if len(set(of_runs.values())) > 1}


def _flatten(path: str, value: Any, into: dict[str, str]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(f"{path}.{key}", inner, into)
    elif value is not None:
        into[path] = str(value)


def _changes(values: Mapping[str, PerQuery], report: ReportData, texts: Mapping[str, str]) -> list[Change]:
    """Queries whose deciding metric differs most between the baseline and the best other model, best first."""
    metric = report.metrics[0]
    before, after = values[report.baseline][metric], values[report.subject][metric]
    ordered = sorted(before, key=lambda query: (before[query] - after[query], query))
    chosen = dict.fromkeys([*ordered[:CHANGES], *ordered[-CHANGES:]])
    differing = [query for query in chosen if before[query] != after[query]]
    return [Change(texts.get(query, query), before[query], after[query]) for query in differing]


def _query_texts(folder: str) -> dict[str, str]:
    """Texts of the queries by id, as the report wrote them for a spreadsheet."""
    fs, path = filesystem(join(folder, "queries.csv"))
    if not fs.exists(path):
        return {}
    with fs.open(path, "r", encoding="utf-8-sig", newline="") as file:
        return {row["query_id"]: row["query"] for row in csv.DictReader(io.StringIO(file.read()))}
