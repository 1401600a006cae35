"""Scores of an evaluation, written into the card of the trained model."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from pipeline.encoder import model_card
from pipeline.evaluation.outputs import write_text
from pipeline.metrics.registry import TASKS, parse_metric
from pipeline.report.data import ReportData
from pipeline.report.format import count, decimal, p_value, signed, with_layers
from pipeline.report.sentences import headline, leakage, power, untrained
from pipeline.storage.files import join

PART = "measured"  # as the training's card calls it
_HUB_NAMES = {"hit": "accuracy"}


def update_card(folder: str, report: ReportData) -> bool:
    """Write the scores into the card of the evaluated model; False where its directory has no card."""
    text = model_card.read(folder)
    if text is None:
        return False
    card = model_card.parse(text)
    if results := _eval_results(report):
        card.data["model_name"], card.data["eval_results"] = _title(card.text) or report.subject, results
    card.text = model_card.replace_section(card.text, PART, measured_part(report))
    write_text(join(folder, model_card.FILE), str(card))
    return True


def measured_part(report: ReportData) -> str:
    """Write the report as Markdown: scores with intervals, tests, smaller vectors, data and leaks."""
    parts = [
        f"## Measured\n\n{headline(report)}.",
        f"Split {report.split}: {count(report.queries)} queries over {count(report.documents)} documents, all of "
        f"them ranked; {count(report.scored_pairs)} labelled pairs. In brackets 95% bootstrap intervals.",
        " ".join([*untrained(report), *power(report)]),
        _models(report),
        "\n".join(f"- {sentence}" for sentence in report.systems.values()),
        _tests(report),
        _variants(report),
        _guards(report),
        "\n".join(f"- {sentence}" for sentence in [*report.truncation, *leakage(report)]),
        "Made by:\n\n```\n" + _commands(report) + "\n```" if report.commands else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _commands(report: ReportData) -> str:
    return "\n".join(model_card.public_text(line, report.run) for line in report.commands)


def _models(report: ReportData) -> str:
    names = report.measured([*report.metrics, *report.task_metrics()])
    models = list(report.scores)
    rows = [[report.label(n), *(_score(report.scores[model], n) for model in models)] for n in names]
    head = [with_layers(model, report.scores[model]) for model in models]
    return model_card.table(["", *head], rows)


def _score(scores: Mapping[str, Any], name: str) -> str:
    if name not in scores:
        return "-"
    interval = scores.get("ci95", {}).get(name)
    return decimal(scores[name]) + (f" ({decimal(interval[0])} to {decimal(interval[1])})" if interval else "")


def _tests(report: ReportData) -> str:
    tests = [test for test in report.against_baseline() if test["model"] == report.subject]
    if not tests:
        return ""
    rows = [
        [report.label(t["metric"]), signed(t["difference"]), p_value(t["p_value"]), p_value(t["p_holm"])] for t in tests
    ]
    head = [f"{report.subject} against {report.baseline}", "difference", "p", "p, Holm"]
    return model_card.table(head, rows)


def _variants(report: ReportData) -> str:
    metric = next((n for n in [*report.metrics, *report.task_metrics()] if n in report.scores[report.subject]), None)
    variants = [v for v in report.variants if v["model"] == report.subject and metric in v]
    if not variants or metric is None:
        return ""
    rows = [[f"{v['dim']} {v['dtype']}", count(v["bytes"]), _score(v, metric)] for v in variants]
    return model_card.table(["smaller vectors", "bytes", report.label(metric)], rows)


def _guards(report: ReportData) -> str:
    rows = []
    for guard in report.guards:
        for metric in report.metrics:
            before, after = (guard.models.get(name, {}).get(metric) for name in (report.baseline, report.subject))
            if before is not None and after is not None:
                rows.append([f"{guard.name}, {guard.split}", report.label(metric), decimal(before), decimal(after)])
    return model_card.table(["other corpora", "metric", report.baseline, report.subject], rows) if rows else ""


def _title(text: str) -> str | None:
    """First heading of a card."""
    return next((line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")), None)


def _eval_results(report: ReportData) -> list[EvalResult]:
    """Scores of the evaluated model as the Hub shows them."""
    scores = report.scores[report.subject]
    return [
        EvalResult(
            task_type="information-retrieval" if report.queries else "semantic-similarity",
            dataset_type="tripletail",
            dataset_name=model_card.public_name(report.run),
            dataset_split=report.split,
            metric_type=hub_metric_type(name),
            metric_name=report.label(name),
            metric_value=round(float(scores[name]), 6),
        )
        for name in [*report.metrics, *report.task_metrics()]
        if name in scores
    ]


def hub_metric_type(name: str) -> str:
    """Name a metric as the Hub does: ndcg@10 is ndcg_at_10."""
    if name in TASKS:
        return name
    spec = parse_metric(name)
    key = spec.metric.name.rpartition(":")[2]  # a user's own is named by its import path
    hub_name = key if spec.cutoff is None else f"{_HUB_NAMES.get(key, key)}_at_{spec.cutoff}"
    return hub_name + (f"_{spec.variant}" if spec.variant else "")
