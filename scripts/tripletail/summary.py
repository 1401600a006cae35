"""The end of a run in a few lines: what was made, where it is, what it gained, and the next command."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.metrics.registry import higher_is_better, metric_label
from pipeline.report.format import decimal, p_equals, with_layers
from pipeline.storage.artifact import MANIFEST
from pipeline.storage.files import join, read_json

from .preflight.ahead import TRAININGS, exists, result

SIGNIFICANT = 0.05


def summary(steps: Sequence[tuple[str, Any]], seconds: float) -> list[str]:
    """Lines on the jobs of a run, each with its settings: time, artifacts, gain where it was measured, what next."""
    lines = [f"done: {len(steps)} {'jobs' if len(steps) != 1 else 'job'} in {seconds:.1f} s"]
    results = [(job, result(job, config)) for job, config in steps if job in _TABLES]
    lines += [f"  {job:<9} {text}" for job, path in results if (text := _described(job, path))]
    if "evaluate" in dict(steps):
        lines += [f"  gain      {line}" for line in gain(result("evaluate", dict(steps)["evaluate"]))]
    return [*lines, *_next(steps)]


_TABLES = {
    "build": ("corpus", "queries", "pairs", "triplets", "labelled"),
    "mine": ("triplets",),
    "train_reranker": (),
    "train": (),
    "embed": ("vectors",),
    "evaluate": (),
    "index": ("documents",),
}


def _described(job: str, path: str) -> str:
    """Where an artifact is, and how many rows its tables have."""
    if not exists(join(path, MANIFEST)):
        return ""
    manifest = read_json(join(path, MANIFEST))
    if job in TRAININGS:
        return f"{manifest['notes'].get('model', path)}: {manifest['notes'].get('rows', 0):,} rows trained"
    if job == "evaluate":
        return _full(join(path, "report.html"))
    tables = {name: manifest["tables"].get(name, {}).get("rows", 0) for name in _TABLES[job]}
    return f"{path}: " + ", ".join(f"{rows:,} {name}" for name, rows in tables.items() if rows)


def _full(path: str) -> str:
    """A path that a browser opens."""
    return path if "://" in path else str(Path(path).resolve())


def gain(report: str) -> list[str]:
    """What a report says of the tuned model, or else of the last one, against its baseline; empty without one."""
    if not exists(join(report, "metrics.json")):
        return []
    metrics = read_json(join(report, "metrics.json"))
    tests = [test for test in metrics["comparisons"] if test["baseline"] == metrics["baseline"]]
    models = [test["model"] for test in tests if test["model"] != "bm25"]
    subject = "tuned" if "tuned" in models else next(iter(models), "")
    test = next((test for test in tests if test["model"] == subject), None)
    if test is None:
        return []
    lines = [_sentence(metrics, test)]
    rivals = {name: scores[test["metric"]] for name, scores in metrics["models"].items() if test["metric"] in scores}
    best = max(rivals, key=lambda name: rivals[name], default=subject)
    if rivals and rivals[best] > rivals.get(subject, 0.0):
        lines.append(f"the best of all is {best}, {decimal(rivals[best])}")
    return lines


def _sentence(metrics: dict[str, Any], test: dict[str, Any]) -> str:
    ours, theirs = (metrics["models"][name] for name in (test["model"], test["baseline"]))
    name, p = test["metric"], test["p_holm"]
    verdict = "a difference that chance may explain" if p >= SIGNIFICANT else _direction(name, test["difference"])
    left, right = with_layers(test["model"], ours), with_layers(test["baseline"], theirs)
    return (
        f"{metric_label(name)} {decimal(ours[name])} ({left}) against {decimal(theirs[name])} ({right}) on "
        f"{metrics['queries']:,} queries, p {p_equals(p)}: {verdict}"
    )


def _direction(metric: str, difference: float) -> str:
    return "better" if (difference > 0) == higher_is_better(metric) else "worse: keep the model that was there"


def _next(steps: Sequence[tuple[str, Any]]) -> list[str]:
    """The command that comes next: search where there are vectors, else the next job."""
    jobs = dict(steps)
    if "embed" in jobs and jobs["embed"].role == "document":
        vectors = shlex.quote(result("embed", jobs["embed"]))
        return [f'next: tripletail search "your question" --index {vectors}']
    last, config = steps[-1]
    follows = {"build": "train", "mine": "train", "train_reranker": "train", "train": "evaluate", "evaluate": "embed"}
    return [f"next: tripletail {follows[last]} --run {shlex.quote(config.run)}"] if last in follows else []
