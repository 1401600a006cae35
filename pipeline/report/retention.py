"""The part of the page, and of its opening, about other corpora: what a model kept of what the baseline could do."""

from pipeline.report.data import ReportData, RetentionResult
from pipeline.report.format import decimal, p_equals, p_value, signed
from pipeline.report.html import Cell, Table


def retention_table(report: ReportData) -> Table | None:
    """One row a guard and metric that both models have; None without guards or with one model alone."""
    rows = [row for guard in report.guards for row in _guard_rows(report, guard)]
    if not rows or report.subject == report.baseline:
        return None
    head = ["Corpus", "Metric", f"Before, {report.baseline}", f"After, {report.subject}", "Difference", "p"]
    return Table(head, rows, text_columns=2)


def _guard_rows(report: ReportData, guard: RetentionResult) -> list[list[Cell]]:
    before, after = guard.models.get(report.baseline, {}), guard.models.get(report.subject, {})
    return [
        [
            Cell(f"{guard.name}, {guard.split}"),
            Cell(report.label(metric)),
            Cell(decimal(before[metric])),
            Cell(decimal(after[metric])),
            *_test_cells(guard, report.subject, metric, after[metric] - before[metric]),
        ]
        for metric in [*report.metrics, *report.headline_tasks()]
        if metric in before and metric in after
    ]


def _test_cells(guard: RetentionResult, subject: str, metric: str, difference: float) -> list[Cell]:
    """The difference with its interval, and p; a difference that was not tested stands alone."""
    test = guard.comparison(subject, metric)
    if test is None:
        return [Cell(signed(difference)), Cell("-")]
    low, high = test["ci95"]
    return [Cell(signed(test["difference"]), (f"{signed(low)} to {signed(high)}",)), Cell(p_value(test["p_value"]))]


def retention_remarks(report: ReportData) -> list[str]:
    """One sentence a guard: what became of its first metric, and whether that may be chance."""
    if report.subject == report.baseline:
        return []
    sentences = []
    for guard in report.guards:
        before, after = guard.models.get(report.baseline, {}), guard.models.get(report.subject, {})
        names = [*report.metrics, *report.headline_tasks()]
        metric = next((name for name in names if name in before and name in after), None)
        if metric is None:
            continue
        test = guard.comparison(report.subject, metric)
        p = "" if test is None else f" (p {p_equals(test['p_value'])})"
        change = f"{decimal(before[metric])} before, {decimal(after[metric])} after"
        sentences.append(f"On {guard.name} {report.label(metric)} is {change}{p}.")
    return sentences
