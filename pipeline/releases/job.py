"""The release job: an index and its model take the place of those in use, if they are not worse on the same queries."""

import json
import math
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.core.config import JobConfig
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.evaluation.run_comparison import MeasuredRun
from pipeline.releases.gate import Gate, Verdict, check
from pipeline.releases.versions import CURRENT, Versions
from pipeline.report.format import decimal
from pipeline.storage.artifact import MANIFEST, Artifact, digest
from pipeline.storage.files import join
from pipeline.storage.lease import acquire


class ReleaseConfig(JobConfig):
    """Put an index and its model into use, unless they are worse than those in use; `tripletail rollback` goes back."""

    common_settings = ("run", "index", "ranked_by", "out", "gate.metric", "gate.max_p", "gate.max_drop", "keep")
    documentation = "scripts/README.md"

    index: str | None = Field(None, description="artifact of index; default {run}/index")
    ranked_by: str | None = Field(
        None,
        description="model or system of the report whose figures count, such as tuned or tuned-mix; default: the model "
        "that the report is about",
    )
    out: str | None = Field(None, description="folder of all versions; default {run}/releases")
    gate: Gate = Gate()
    keep: int = Field(3, ge=2, description="versions that stay; the one in use and the one before it always do")


def run(config: ReleaseConfig) -> str:
    """Release the index of a run after its report; returns the folder of the version in use.

    The report is that of `evaluate`, on a split or corpus that stays the same from one release to the next. Raises
    UserError where the gate refuses: what is in use stays, and the history says why.
    """
    versions = Versions.open(config.out or join(config.run, "releases"))
    index = Artifact.open(config.index or join(config.run, "index"), "index")
    measured = MeasuredRun.open(config.run)
    subject = config.ranked_by or measured.subject
    if subject not in measured.values:
        raise UserError(f"ranked_by '{subject}' is not in the report; choose from {', '.join(measured.values)}")
    metric = config.gate.metric or next(iter(measured.values[subject]))
    if metric not in measured.values[subject]:
        raise UserError(f"gate.metric '{metric}' is not in the report; it has {', '.join(measured.values[subject])}")
    values = measured.values[subject][metric]
    mean = math.fsum(values.values()) / len(values)
    model = Path(str((index.manifest.notes.get("model") or {}).get("model", "")))
    folders = {"index": Path(index.path), "report": Path(measured.report.path)}
    folders |= {"model": model} if model.name and model.is_dir() else {}
    facts: dict[str, Any] = {
        "digest": digest([index.manifest.fingerprint, measured.report.manifest.fingerprint, subject]),
        "index": index.manifest.fingerprint,
        "ranked_by": subject, "metric": metric, "mean": mean, "queries": len(values),
    }  # fmt: skip
    lease = acquire(join(str(versions.home), CURRENT), "release")
    try:
        return _release(config, versions, folders, facts, values)
    finally:
        lease.release()


def _release(
    config: ReleaseConfig, versions: Versions, folders: dict[str, Path], facts: dict[str, Any], values: dict[str, float]
) -> str:
    """Compare with what is in use, then copy and turn the link."""
    current = versions.current
    if current and versions.facts(current)["digest"] == facts["digest"]:
        say(f"release: {current} is in use already: the same index and report")
        return str(versions.home / current)
    verdict = _compare(config.gate, versions, current, facts["metric"], values) if current else None
    if verdict and verdict.reason:
        versions.log("refused", against=current, why=verdict.reason, **_figures(verdict))
        raise UserError(f"refused: {verdict.reason}: {verdict}; {current} stays in use")
    name = versions.of(facts["digest"]) or versions.add(folders, facts, _name_model)
    versions.use(name)
    versions.log("released", version=name, against=current, **(_figures(verdict) if verdict else {}))
    first = f"the first one, {facts['metric']} {decimal(facts['mean'])} on {facts['queries']:,} queries"
    say(f"release: {name} is in use: {verdict or first}")
    for removed in versions.prune(config.keep):
        say(f"release: removed {removed}")
    say(f"release: {versions.home / CURRENT}/index is what to search and serve; `tripletail rollback` goes back")
    return str(versions.home / name)


def _name_model(copy: Path, final: Path) -> None:
    """Let the copied index name the model that was copied with it: the run's own changes with the next training."""
    if (copy / "model").is_dir():
        manifest = json.loads((copy / "index" / MANIFEST).read_text(encoding="utf-8"))
        manifest["notes"]["model"]["model"] = str(final / "model")
        (copy / "index" / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _compare(gate: Gate, versions: Versions, current: str, metric: str, values: dict[str, float]) -> Verdict:
    """The verdict against the version in use, by the ranking that it was released with."""
    facts = versions.facts(current)
    before = MeasuredRun.open(str(versions.home / current)).values[facts["ranked_by"]]
    if metric not in before:
        raise UserError(f"{current}: was not measured by {metric}; choose a gate.metric that both have")
    return check(gate, metric, before[metric], values)


def _figures(verdict: Verdict) -> dict[str, Any]:
    if math.isnan(verdict.before):
        return {"queries": verdict.queries}
    return {
        "metric": verdict.metric, "before": verdict.before, "after": verdict.after, "p": verdict.p_value,
        "queries": verdict.queries,
    }  # fmt: skip


def rollback(path: str, to: str | None = None) -> str:
    """Put the version before the one in use, or a named one, into use again; returns its name.

    Raises UserError where there is none.
    """
    versions = Versions.open(path)
    current = versions.current
    if current is None:
        raise UserError(f"{path}: nothing is released there")
    target = to or versions.before(current)
    if target is None or target not in versions.names():
        names = ", ".join(name for name in versions.names() if name != current) or "none"
        raise UserError(f"{path}: has no version {to or 'before the one in use'}; others that are there: {names}")
    if target == current:
        raise UserError(f"{path}: {target} is in use already")
    lease = acquire(join(str(versions.home), CURRENT), "rollback")
    try:
        versions.use(target)
        versions.log("rolled back", version=target, against=current)
    finally:
        lease.release()
    return target
