"""The part of the page, and of its opening, that says what a model kept of what the baseline knew."""

from collections.abc import Sequence
from html import escape

from pipeline.report.data import RetentionResult
from pipeline.report.format import decimal, metric_name, p_value, signed

Cells = list[str]  # HTML: corpus, metric, before, after, difference with its interval, p

_OTHERS = ("average_precision", "spearman", "triplet_accuracy", "v_measure")


def kept_rows(guards: Sequence[RetentionResult], metrics: Sequence[str], subject: str, baseline: str) -> list[Cells]:
    """One row a guard and metric that both models have; a figure that was not tested stands alone."""
    rows = []
    for kept in guards:
        before, after = kept.models.get(baseline, {}), kept.models.get(subject, {})
        for metric in [*metrics, *_OTHERS]:
            if metric in before and metric in after:
                figures = [decimal(before[metric]), decimal(after[metric])]
                tested = _tested(kept, subject, metric, after[metric] - before[metric])
                rows.append([escape(f"{kept.name}, {kept.split}"), escape(metric_name(metric)), *figures, *tested])
    return rows


def _tested(kept: RetentionResult, subject: str, metric: str, difference: float) -> Cells:
    test = kept.comparison(subject, metric)
    if test is None:
        return [signed(difference), "-"]
    low, high = test["ci95"]
    return [f"{signed(test['difference'])}<small>{signed(low)} to {signed(high)}</small>", p_value(test["p_value"])]


def kept_remarks(guards: Sequence[RetentionResult], metrics: Sequence[str], subject: str, baseline: str) -> list[str]:
    """One sentence a guard: what became of its first metric, and whether that may be chance."""
    said = []
    for kept in guards:
        before, after = kept.models.get(baseline, {}), kept.models.get(subject, {})
        metric = next((name for name in [*metrics, *_OTHERS] if name in before and name in after), None)
        if metric is None:
            continue
        test = kept.comparison(subject, metric)
        p = "" if test is None else f" (p {_equal(p_value(test['p_value']))})"
        figures = f"{decimal(before[metric])} before, {decimal(after[metric])} after"
        said.append(f"On {kept.name} {metric_name(metric)} is {figures}{p}.")
    return said


def _equal(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"
