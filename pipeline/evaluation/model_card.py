"""What was measured, written onto the card of the model that was trained."""

from collections.abc import Mapping
from typing import Any

from pipeline.encoder import model_card
from pipeline.evaluation.outputs import write_text
from pipeline.report.data import Findings
from pipeline.report.format import count, decimal, headline, leakage, metric_name, p_value, signed
from pipeline.report.results import TASKS
from pipeline.storage.files import join

PART = "measured"  # as the training's card calls it
_KINDS = {"ndcg": "ndcg_at", "mrr": "mrr_at", "recall": "recall_at", "hit": "accuracy_at", "map": "map_at"}


def tell_card(folder: str, findings: Findings) -> bool:
    """Bring the card of the subject up to date; False where its directory has none."""
    text = model_card.read(folder)
    if text is None:
        return False
    front, body = model_card.split(text)
    front = front | {"model-index": [_index(findings, body)]}
    write_text(
        join(folder, model_card.FILE), model_card.compose(front, model_card.with_part(body, PART, measured(findings)))
    )
    return True


def measured(findings: Findings) -> str:
    """Say in Markdown what the report says: figures with intervals, tests, smaller vectors, data and leaks."""
    parts = [
        f"## Measured\n\n{headline(findings)}.",
        f"Split {findings.split}: {count(findings.queries)} queries over {count(findings.documents)} documents, all of "
        f"them ranked; {count(findings.labelled_pairs)} labelled pairs. In brackets 95% bootstrap intervals.",
        _models(findings),
        _tests(findings),
        _variants(findings),
        _guards(findings),
        "\n".join(f"- {sentence}" for sentence in leakage(findings)),
        "Made by:\n\n```\n" + "\n".join(findings.commands) + "\n```" if findings.commands else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _models(findings: Findings) -> str:
    held = [n for n in [*findings.metrics, *TASKS] if any(n in own for own in findings.figures.values())]
    models = list(findings.figures)
    rows = [[metric_name(n), *(_figure(findings.figures[model], n) for model in models)] for n in held]
    return model_card.table(["", *models], rows)


def _figure(figures: Mapping[str, Any], name: str) -> str:
    if name not in figures:
        return "-"
    interval = figures.get("ci95", {}).get(name)
    return decimal(figures[name]) + (f" ({decimal(interval[0])} to {decimal(interval[1])})" if interval else "")


def _tests(findings: Findings) -> str:
    tests = [test for test in findings.against() if test["model"] == findings.subject]
    if not tests:
        return ""
    rows = [
        [metric_name(t["metric"]), signed(t["difference"]), p_value(t["p_value"]), p_value(t["p_holm"])] for t in tests
    ]
    head = [f"{findings.subject} against {findings.baseline}", "difference", "p", "p, Holm"]
    return model_card.table(head, rows)


def _variants(findings: Findings) -> str:
    metric = next((n for n in [*findings.metrics, *TASKS] if n in findings.figures[findings.subject]), None)
    own = [one for one in findings.variants if one["model"] == findings.subject and metric in one]
    if not own or metric is None:
        return ""
    rows = [[f"{one['dim']} {one['dtype']}", count(one["bytes"]), _figure(one, metric)] for one in own]
    return model_card.table(["smaller vectors", "bytes", metric_name(metric)], rows)


def _guards(findings: Findings) -> str:
    rows = []
    for kept in findings.guards:
        for metric in findings.metrics:
            before, after = (kept.models.get(name, {}).get(metric) for name in (findings.baseline, findings.subject))
            if before is not None and after is not None:
                rows.append([f"{kept.name}, {kept.split}", metric_name(metric), decimal(before), decimal(after)])
    return model_card.table(["other corpora", "metric", findings.baseline, findings.subject], rows) if rows else ""


def _index(findings: Findings, body: str) -> dict[str, Any]:
    """Return the entry of `model-index`, from which the Hub draws figures."""
    own = findings.figures[findings.subject]
    held = [name for name in [*findings.metrics, *TASKS] if name in own]
    title = next((line.removeprefix("# ") for line in body.splitlines() if line.startswith("# ")), findings.subject)
    metrics = [{"type": kind(name), "name": metric_name(name), "value": round(float(own[name]), 6)} for name in held]
    task = {"type": "information-retrieval" if findings.queries else "semantic-similarity"}
    data = {"type": "tripletail", "name": findings.run, "split": findings.split}
    return {"name": title, "results": [{"task": task, "dataset": data, "metrics": metrics}]}


def kind(name: str) -> str:
    """Name a metric as the Hub does: ndcg@10 is ndcg_at_10."""
    plain, _, variant = name.partition(":")
    base, at, cutoff = plain.partition("@")
    found = f"{_KINDS[base]}_{cutoff}" if at and base in _KINDS else plain.replace("@", "_at_")
    return found + (f"_{variant}" if variant else "")
