"""The part of the page that shows where the models stand: at a glance, as figures, and tested against each other."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipeline.report.data import ReportData
from pipeline.report.format import count, decimal, metric_name, p_value, signed
from pipeline.report.html_parts import figure, folded, note, pair, section, table
from pipeline.report.plots import standings

Figures = Mapping[str, Any]

TASKS = (
    "triplet_accuracy",
    "mean_margin",
    "average_precision",
    "f1",
    "accuracy",
    "spearman",
    "pearson",
    "duplicate_average_precision",
    "duplicate_f1",
    "v_measure",
)
_CUTS = {"f1": "f1_threshold", "accuracy": "accuracy_threshold", "duplicate_f1": "duplicate_f1_threshold"}
_SURE = 0.05


def leading(report: ReportData) -> str | None:
    """Name the figure that decides: the first metric, else the first of the other tasks that was measured."""
    held = [name for name in [*report.metrics, *TASKS] if any(name in f for f in report.scores.values())]
    return held[0] if held else None


def glance(report: ReportData) -> str:
    """Draw the deciding figure of every model with its interval, and queries won and lost against the baseline."""
    metric = leading(report)
    if metric is None:
        return ""
    held = {name: own for name, own in report.scores.items() if metric in own.get("ci95", {})}
    if len(held) < 2:
        return ""
    points = {name: (own[metric], *own["ci95"][metric]) for name, own in held.items()}
    shown = standings(points, metric_name(metric), report.subject, "standing")
    caption = f"{metric_name(metric)} of each model and its 95% bootstrap interval."
    return section("At a glance", pair(figure(shown, caption, caption), _outcomes(report, metric)))


def _outcomes(report: ReportData, metric: str) -> str:
    """Bars of the queries that each model wins, ties and loses against the baseline."""
    tests = [test for test in report.against() if test["metric"] == metric]
    if not tests or metric not in report.metrics:
        return ""
    total = report.queries
    bars = "".join(_bar(test, total) for test in tests)
    key = '<p class="key"><i class="won"></i>better<i class="tied"></i>equal<i class="lost"></i>worse</p>'
    caption = f"{metric_name(metric)} of each of {count(total)} queries against {report.baseline}."
    return f"<figure>{key}{bars}<figcaption>{escape(caption)}</figcaption></figure>"


def _bar(test: Figures, total: int) -> str:
    parts = {"won": test["won"], "tied": total - test["won"] - test["lost"], "lost": test["lost"]}
    widths = "".join(
        f'<i class="{kind}" style="flex-grow:{number}"><span>{count(number)}</span></i>'
        for kind, number in parts.items()
        if number
    )
    told = f"{test['model']}: {parts['won']} better, {parts['tied']} equal, {parts['lost']} worse"
    return (
        f'<div class="outcome" role="img" aria-label="{escape(told)}">'
        f'<b>{escape(test["model"])}</b><div class="bar">{widths}</div></div>'
    )


def models(report: ReportData) -> str:
    """Show every figure of every model with its interval; variants stand below, in small print."""
    parts = []
    retrieval = _held(report, report.metrics)
    if retrieval:
        parts.append(_figures_table(report, retrieval, _variant_rows(report, retrieval)))
    tasks = _held(report, TASKS)
    if tasks:
        groups = {} if retrieval else _variant_rows(report, tasks)
        parts.append(("<h3>Beyond retrieval</h3>\n" if retrieval else "") + _figures_table(report, tasks, groups))
    said = (
        "Below a figure stands its 95% bootstrap interval over queries, triplets, pairs or documents. The best is bold."
    )
    return section("Models", *parts, note(said))


def _held(report: ReportData, names: Sequence[str]) -> list[str]:
    return [name for name in names if any(name in figures for figures in report.scores.values())]


def _figures_table(report: ReportData, names: list[str], groups: dict[str, list[list[str]]]) -> str:
    best = {name: max(own[name] for own in report.scores.values() if name in own) for name in names}
    rows = [[escape(model), *(_cell(own, name, best[name]) for name in names)] for model, own in report.scores.items()]
    return table(["Model", *(escape(metric_name(name)) for name in names)], rows, groups=groups)


def _variant_rows(report: ReportData, names: list[str]) -> dict[str, list[list[str]]]:
    """Rows of the variants by model: dimensions and type in place of a name."""
    found: dict[str, list[list[str]]] = {}
    for variant in report.variants:
        if not any(name in variant for name in names):
            continue
        name = f"{variant['dim']} {variant['dtype']}<small>{count(variant['bytes'])} bytes</small>"
        cells = [_cell(variant, metric, None) for metric in names]
        whole = report.scores.get(variant["model"], {}).get("dim")
        title = f"{variant['model']}, smaller vectors" + (f" (whole: {whole} float32)" if whole else "")
        found.setdefault(title, []).append([name, *cells])
    return found


def _cell(figures: Figures, metric: str, best: float | None) -> str:
    if metric not in figures:
        return '<span class="none">-</span>'
    value = figures[metric]
    shown = f"<b>{decimal(value)}</b>" if value == best else decimal(value)
    interval = figures.get("ci95", {}).get(metric)
    shown += f"<small>{decimal(interval[0])} to {decimal(interval[1])}</small>" if interval else ""
    cut = figures.get(_CUTS.get(metric, ""))
    return shown + (f"<small>at cosine {decimal(cut)}</small>" if cut is not None else "")


def comparisons(report: ReportData) -> str:
    """Show the tests against the baseline, those of the deciding figure first, and the matrix of all pairs."""
    tests, metric = report.against(), leading(report)
    if not tests:
        return ""
    first = [test for test in tests if test["metric"] == metric]
    rest = [test for name in dict.fromkeys(t["metric"] for t in tests) for test in tests if test["metric"] == name]
    rest = [test for test in rest if test["metric"] != metric]
    parts = [_tests(first)] if first else []
    if rest:
        further = len({test["metric"] for test in rest})
        parts.append(folded(f"Tests on {further} further figure{'s' if further > 1 else ''}", _tests(rest)))
    parts.append(_matrix(report, metric))
    said = (
        "Two-sided and paired: a permutation test with 10,000 samples over queries and triplets, the bootstrap with "
        "500 to 2,000 for figures that are no means. Holm takes the tests on one metric as a family. Bold: below 0.05."
    )
    return section(f"Against {report.baseline}", *parts, note(said))


def _tests(tests: Sequence[Figures]) -> str:
    head = ["Model", "Metric", "Difference", "Won / lost", "p", "p, Holm"]
    return table(head, [_test(test) for test in tests], words=2)


def _test(test: Figures) -> list[str]:
    low, high = test["ci95"]
    corrected = p_value(test["p_holm"])
    outcome = "-" if test["won"] is None else f"{count(test['won'])} / {count(test['lost'])}"
    return [
        escape(test["model"]),
        escape(metric_name(test["metric"])),
        f"{signed(test['difference'])}<small>{signed(low)} to {signed(high)}</small>",
        outcome,
        p_value(test["p_value"]),
        f"<b>{corrected}</b>" if test["p_holm"] < _SURE else corrected,
    ]


def _matrix(report: ReportData, metric: str | None) -> str:
    """Each model of a row against each of a column, where all pairs were tested."""
    tests = {(t["model"], t["baseline"]): t for t in report.comparisons if t["metric"] == metric}
    if all(baseline == report.baseline for _, baseline in tests):
        return ""
    tested = {name for models in tests for name in models}
    names = [name for name in report.scores if name in tested]
    rows = [[escape(a), *(_against(tests, a, b) for b in names)] for a in names]
    head = ["Row less column", *(escape(name) for name in names)]
    return f"<h3>Every pair, {escape(metric_name(str(metric)))}</h3>\n" + table(head, rows)


def _against(tests: Mapping[tuple[str, str], Figures], a: str, b: str) -> str:
    test, turned = tests.get((a, b)), tests.get((b, a))
    found = test or turned
    if found is None:
        return '<span class="none">-</span>'
    text = signed(found["difference"] if test else -found["difference"])
    text = f"<b>{text}</b>" if found["p_holm"] < _SURE else text
    return f"{text}<small>p {p_value(found['p_holm'])}</small>"
