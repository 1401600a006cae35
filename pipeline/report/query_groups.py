"""The part of the page about groups of queries: where each model wins and loses, and what none of them finds."""

from dataclasses import dataclass

from pipeline.report.data import QueryGroup, ReportData
from pipeline.report.format import count, decimal
from pipeline.report.html import Cell, Table

MODELS = 6  # columns, for a page that fits
EXAMPLES = 5


@dataclass(frozen=True)
class Groups:
    """The table of groups under a heading each, if there are any; a sentence on queries that nothing finds; some."""

    table: Table | None
    sentence: str
    unfound: list[str]


def groups(report: ReportData) -> Groups | None:
    """Draw the deciding metric by groups of queries; None where there is nothing to tell."""
    if not (report.query_groups or report.unfound):
        return None
    return Groups(_table(report) if report.query_groups else None, _sentence(report), report.unfound[:EXAMPLES])


def _table(report: ReportData) -> Table:
    models = shown_models(report)
    titles = dict.fromkeys(group.by for group in report.query_groups)
    rows = {by: [_row(group, models) for group in report.query_groups if group.by == by] for by in titles}
    everything = [Cell("all"), Cell(count(report.queries)), *_cells(models, _scores(report))]
    return Table(["Queries", "Number", *models], [everything], groups=rows)


def shown_models(report: ReportData) -> list[str]:
    """The first model, the baseline, the headline's and the best of the others, in the order of the page."""
    scores = _scores(report)
    first = [name for name in dict.fromkeys([*list(scores)[:1], report.baseline, report.subject]) if name in scores]
    better = sorted((name for name in scores if name not in first), key=lambda name: -scores[name])
    chosen = {*first, *better[: MODELS - len(first)]}
    return [name for name in scores if name in chosen]


def _scores(report: ReportData) -> dict[str, float]:
    metric = report.metrics[0]
    return {model: of_model[metric] for model, of_model in report.scores.items() if metric in of_model}


def _row(group: QueryGroup, models: list[str]) -> list[Cell]:
    return [Cell(group.name), Cell(count(group.queries)), *_cells(models, dict(group.scores))]


def _cells(models: list[str], scores: dict[str, float]) -> list[Cell]:
    best = max((scores[model] for model in models if model in scores), default=None)
    return [
        Cell(decimal(scores[model]), bold=scores[model] == best) if model in scores else Cell(missing=True)
        for model in models
    ]


def _sentence(report: ReportData) -> str:
    if not report.unfound:
        return ""
    return (
        f"For {count(len(report.unfound))} of {count(report.queries)} queries {report.label(report.metrics[0])} is 0 "
        "under every model and system: read whether their documents are judged rightly, and whether the corpus says it "
        "in words that training has seen."
    )
