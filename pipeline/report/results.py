"""The part of the page that compares the models: a picture of the deciding metric, tables of scores, and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.data import ReportData
from pipeline.report.format import count, decimal, layers, p_value, signed
from pipeline.report.html import Cell, Figure, Table
from pipeline.report.plots import standings_plot

Scores = Mapping[str, Any]

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Outcome:
    """Numbers of queries that a model answers better, equally well and worse than the baseline."""

    model: str
    parts: dict[str, int]
    label: str


@dataclass(frozen=True)
class Standings:
    """The deciding metric of every model as a picture, and the outcomes of the queries with their caption."""

    figure: Figure
    outcomes: list[Outcome] = field(default_factory=list)
    caption: str = ""


@dataclass(frozen=True)
class Comparisons:
    """Tables of tests: on the deciding metric, on the others, of systems and their parts, and of every pair."""

    deciding: Table | None
    further: Table | None
    further_title: str
    parts: Table | None
    matrix: Table | None
    matrix_title: str


def standings(report: ReportData) -> Standings | None:
    """Draw the deciding metric of every model with its interval, and the outcomes of queries; None of one model."""
    metric = report.deciding_metric()
    scores = {model: of_model for model, of_model in report.scores.items() if metric in of_model.get("ci95", {})}
    if metric is None or len(scores) < 2:
        return None
    points = {model: (of_model[metric], *of_model["ci95"][metric]) for model, of_model in scores.items()}
    caption = f"{report.label(metric)} of each model and its 95% bootstrap interval."
    picture = Figure(standings_plot(points, report.label(metric), report.subject, "standing"), caption, caption)
    tests = [test for test in report.against_baseline() if test["metric"] == metric]
    if not tests or metric not in report.metrics:
        return Standings(picture)
    queries = f"{report.label(metric)} of each of {count(report.queries)} queries against {report.baseline}."
    return Standings(picture, [_outcome(test, report.queries) for test in tests], queries)


def _outcome(test: Scores, queries: int) -> Outcome:
    parts = {"won": test["won"], "tied": queries - test["won"] - test["lost"], "lost": test["lost"]}
    label = f"{test['model']}: {parts['won']} better, {parts['tied']} equal, {parts['lost']} worse"
    return Outcome(test["model"], parts, label)


def score_tables(report: ReportData) -> list[tuple[str, Table]]:
    """Tables of every score with its interval, each under a heading or none; variants stand below, in small print."""
    tables = []
    retrieval = report.measured(report.metrics)
    if retrieval:
        tables.append(("", _score_table(report, retrieval, _variant_rows(report, retrieval))))
    tasks = report.measured(report.task_metrics())
    if tasks:
        groups = {} if retrieval else _variant_rows(report, tasks)
        tables.append(("Beyond retrieval" if retrieval else "", _score_table(report, tasks, groups)))
    return tables


def _score_table(report: ReportData, names: list[str], groups: dict[str, list[list[Cell]]]) -> Table:
    best = {name: report.scores[model][name] for name in names for model in [report.best(name)] if model is not None}
    rows = [
        [
            Cell(model, tuple(filter(None, [layers(scores)]))),
            *(_score_cell(report, scores, name, best[name]) for name in names),
        ]
        for model, scores in report.scores.items()
    ]
    return Table(["Model", *(report.label(name) for name in names)], rows, groups=groups)


def _variant_rows(report: ReportData, names: list[str]) -> dict[str, list[list[Cell]]]:
    """Rows of the variants by model: dimensions and type in place of a name."""
    groups: dict[str, list[list[Cell]]] = {}
    for variant in report.variants:
        if not any(name in variant for name in names):
            continue
        first = Cell(f"{variant['dim']} {variant['dtype']}", (f"{count(variant['bytes'])} bytes",))
        full = report.scores.get(variant["model"], {}).get("dim")
        title = f"{variant['model']}, smaller vectors" + (f" (whole: {full} float32)" if full else "")
        groups.setdefault(title, []).append([first, *(_score_cell(report, variant, name, None) for name in names)])
    return groups


def _score_cell(report: ReportData, scores: Scores, metric: str, best: float | None) -> Cell:
    if metric not in scores:
        return Cell(missing=True)
    interval = scores.get("ci95", {}).get(metric)
    threshold = scores.get(report.threshold_of(metric))
    small = [f"{decimal(interval[0])} to {decimal(interval[1])}"] if interval else []
    small += [f"at cosine {decimal(threshold)}"] if threshold is not None else []
    return Cell(decimal(scores[metric]), tuple(small), bold=scores[metric] == best)


def comparisons(report: ReportData) -> Comparisons | None:
    """Tables of the tests against the baseline, those of the deciding metric first, and of all pairs of models."""
    tests, metric = report.against_baseline(), report.deciding_metric()
    if not tests:
        return None
    deciding = [test for test in tests if test["metric"] == metric]
    names = [name for name in dict.fromkeys(test["metric"] for test in tests) if name != metric]
    further = [test for name in names for test in tests if test["metric"] == name]
    return Comparisons(
        deciding=_test_table(report, deciding) if deciding else None,
        further=_test_table(report, further) if further else None,
        further_title=f"Tests on {len(names)} further figure{'s' if len(names) > 1 else ''}",
        parts=_part_table(report, metric),
        matrix=_matrix(report, metric),
        matrix_title=f"Every pair, {report.label(str(metric))}",
    )


def _test_table(report: ReportData, tests: Sequence[Scores]) -> Table:
    head = ["Model", "Metric", "Difference", "Won / lost", "p", "p, Holm"]
    return Table(head, [_test_row(report, test) for test in tests], text_columns=2)


def _test_row(report: ReportData, test: Scores) -> list[Cell]:
    low, high = test["ci95"]
    outcome = "-" if test["won"] is None else f"{count(test['won'])} / {count(test['lost'])}"
    return [
        Cell(test["model"]),
        Cell(report.label(test["metric"])),
        Cell(signed(test["difference"]), (f"{signed(low)} to {signed(high)}",)),
        Cell(outcome),
        Cell(p_value(test["p_value"])),
        Cell(p_value(test["p_holm"]), bold=test["p_holm"] < _SIGNIFICANT),
    ]


def _part_table(report: ReportData, metric: str | None) -> Table | None:
    """Each system against what it is made of, where that is not the baseline; None without systems."""
    tests = [
        test
        for test in report.comparisons
        if test["metric"] == metric and test["model"] in report.systems and test["baseline"] != report.baseline
    ]
    named = [{**test, "model": f"{test['model']} against {test['baseline']}"} for test in tests]
    return _test_table(report, named) if named else None


def _matrix(report: ReportData, metric: str | None) -> Table | None:
    """Each model of a row against each of a column; None where not every pair was tested, or there is but one."""
    tests = {(test["model"], test["baseline"]): test for test in report.comparisons if test["metric"] == metric}
    tested = {name for models in tests for name in models}
    names = [name for name in report.scores if name in tested]
    if len(names) < 3 or len(tests) < len(names) * (len(names) - 1) // 2:
        return None
    rows = [[Cell(row), *(_matrix_cell(tests, row, column) for column in names)] for row in names]
    return Table(["Row less column", *names], rows)


def _matrix_cell(tests: Mapping[tuple[str, str], Scores], row: str, column: str) -> Cell:
    test, reverse = tests.get((row, column)), tests.get((column, row))
    if test is not None:
        return _difference_cell(test["difference"], test["p_holm"])
    return Cell(missing=True) if reverse is None else _difference_cell(-reverse["difference"], reverse["p_holm"])


def _difference_cell(difference: float, p_holm: float) -> Cell:
    return Cell(signed(difference), (f"p {p_value(p_holm)}",), bold=p_holm < _SIGNIFICANT)
