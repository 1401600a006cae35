"""The part of the page that shows queries which one model answers better than the other, with both rankings."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.report.data import Example, Hit, ReportData
from pipeline.report.format import decimal


@dataclass(frozen=True)
class ExampleView:
    """A query, the change of its metric, the first documents by model, and a relevant document that neither found."""

    query: str
    change: str
    answers: Mapping[str, list[Hit]]
    missed: str


def examples(report: ReportData) -> dict[str, list[ExampleView]]:
    """The queries won and lost most, by heading; nothing where there are none."""
    if not (report.won or report.lost):
        return {}
    metric = report.label(report.metrics[0])
    return {
        f"Won most by {report.subject}": [_view(example, metric) for example in report.won],
        f"Lost most by {report.subject}": [_view(example, metric) for example in report.lost],
    }


def _view(example: Example, metric: str) -> ExampleView:
    change = f"{metric} {decimal(example.before)} to {decimal(example.after)}"
    is_found = any(hit.relevant for hits in example.answers.values() for hit in hits)
    return ExampleView(example.query, change, example.answers, "" if is_found else example.relevant)
