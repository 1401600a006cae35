"""The pictures of the page: training curves, distributions of similarities, and smaller vectors."""

from typing import Any

from pipeline.report.data import ReportData
from pipeline.report.format import decimal
from pipeline.report.html import Figure
from pipeline.report.plots import histograms, loss_curve, metric_curves, size_plot, span_of


def training(report: ReportData) -> list[Figure]:
    """Draw the loss and the validations of the training."""
    figures = []
    if loss := loss_curve(report.curves, "loss"):
        figures.append(Figure(loss, "Training loss over steps", "Loss of each step, and its running mean."))
    if metrics := metric_curves(report.curves, report.label, "validation"):
        figures.append(Figure(metrics, "Validation metrics over steps", "Metrics of the validations during training."))
    return figures


def similarities(report: ReportData) -> list[Figure]:
    """Draw the cosines of relevant, hard and random pairs under the baseline and the subject."""
    by_model = {model: {k: v for k, v in groups.items() if len(v)} for model, groups in report.similarities.items()}
    by_model = {model: groups for model, groups in by_model.items() if groups}
    if not by_model:
        return []
    span, figures = span_of(by_model), []
    for number, (model, groups) in enumerate(by_model.items()):
        means = ", ".join(f"{label} {decimal(float(values.mean()))}" for label, values in groups.items())
        caption = f"{model}. Mean cosine: {means}."
        figures.append(Figure(histograms(groups, span, f"cosine{number}"), f"Cosines under {model}", caption))
    return figures


def variants(report: ReportData) -> list[Figure]:
    """Draw the deciding metric against the bytes of a vector, a line for each type."""
    metric, figures = report.deciding_metric(), []
    for number, model in enumerate(dict.fromkeys(variant["model"] for variant in report.variants)):
        points = _points(report, model, metric)
        if metric is None or len(points) < 2:
            continue
        lines: dict[str, list[tuple[int, int, float]]] = {}
        for point in points:
            lines.setdefault(point["dtype"], []).append((point["bytes"], point["dim"], point[metric]))
        label = report.label(metric)
        caption = f"{model}: {label} against the bytes of a vector. At each point stand its dimensions."
        figures.append(Figure(size_plot(lines, label, f"sizes{number}"), caption, caption))
    return figures


def _points(report: ReportData, model: str, metric: str | None) -> list[dict[str, Any]]:
    """The full vectors of a model and its variants, where they have the metric."""
    scores = report.scores[model]
    full = {**scores, "model": model, "dtype": "float32", "bytes": 4 * scores["dim"]}
    return [point for point in [full, *report.variants] if metric in point and point["model"] == model]
