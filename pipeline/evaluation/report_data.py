"""From what was measured to what the report tells."""

import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import __version__
from pipeline.evaluation import projection
from pipeline.evaluation.results import Measured
from pipeline.report.data import Example, Findings, Hit, Kept, Landscape
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import filesystem, join

EXAMPLES, DOCUMENTS = 5, 3
_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "numpy", "pytrec-eval-terrier", "bm25s")


def subject_of(models: Sequence[str], baseline: str) -> str:
    """Name the model that the headline is about: `tuned`, else the last that is not the baseline."""
    others = [name for name in models if name != baseline]
    if "tuned" in others:
        return "tuned"
    return others[-1] if others else baseline


def tell(
    measured: Measured,
    data: Artifact,
    comparisons: list[dict[str, Any]],
    curves: list[dict[str, Any]],
    guards: list[Kept],
    *,
    run: str,
    split: str,
    baseline: str,
    metrics: list[str],
    seed: int,
    commands: list[str],
) -> Findings:
    """Gather everything that the page shows."""
    subject = subject_of(list(measured.figures), baseline)
    manifest = data.manifest
    won, lost = _examples(measured, subject, baseline, metrics[0])
    return Findings(
        run=run,
        split=split,
        queries=len(measured.questions.query_ids),
        documents=len(measured.corpus),
        baseline=baseline,
        subject=subject,
        metrics=metrics,
        figures=measured.figures,
        comparisons=comparisons,
        guards=guards,
        labelled_pairs=len(measured.questions.labelled),
        triplet_source=measured.triplet_source,
        curves=curves,
        similarities=_similarities(measured, subject, baseline),
        won=won,
        lost=lost,
        skipped=measured.questions.skipped,
        tables={name: table.rows for name, table in manifest.tables.items()},
        dropped=manifest.dropped,
        leakage=manifest.notes.get("leakage") or {},
        data={"data": data.path, "data fingerprint": manifest.fingerprint, "data made": manifest.created},
        environment=environment(),
        commands=commands,
        variants=[smaller.told() for smaller in measured.smaller],
        landscapes=_landscapes(measured, subject, baseline, seed),
        landscape_method=projection.METHOD,
    )


def _landscapes(measured: Measured, subject: str, baseline: str, seed: int) -> dict[str, Landscape]:
    """Draw the sampled documents under the baseline and the subject, where they are encoders and enough to draw."""
    sample, chosen = measured.sample, projection.drawn(measured.sample)
    if len(chosen) < projection.FEWEST:
        return {}
    coloured = projection.colours(sample)
    names = [coloured[place] for place in chosen]
    texts = [sample.texts[place] for place in chosen]
    return {
        model: Landscape(projection.places(measured.sampled[model][chosen], seed), names, texts)
        for model in dict.fromkeys([baseline, subject])
        if model in measured.sampled
    }


def _similarities(measured: Measured, subject: str, baseline: str) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    """Cosines of relevant, hard and random pairs under the baseline and the subject, where they are encoders."""
    labels = {"relevant": "relevant", "negative": "hard negative", "random": "random"}
    return {
        model: {
            label: values[np.isfinite(values)]
            for part, label in labels.items()
            for values in [measured.similarities[model][measured.probes.parts[part]]]
        }
        for model in dict.fromkeys([baseline, subject])
        if model in measured.similarities
    }


def _examples(measured: Measured, subject: str, baseline: str, metric: str) -> tuple[list[Example], list[Example]]:
    """Choose the queries whose metric rose and fell most, ties in query order."""
    if subject == baseline or not measured.questions.query_ids:
        return [], []
    after, before = measured.values[subject][metric], measured.values[baseline][metric]
    places = {query: place for place, query in enumerate(measured.questions.query_ids)}
    ranked = sorted(places, key=lambda query: (before[query] - after[query], places[query]))
    won = [query for query in ranked if after[query] > before[query]][:EXAMPLES]
    lost = [query for query in reversed(ranked) if after[query] < before[query]][:EXAMPLES]
    models = [baseline, subject]
    texts = _texts(measured, models, [*won, *lost], places)

    def example(query: str) -> Example:
        grades, place = measured.questions.judgments[query], places[query]
        right = next((texts[doc] for doc in grades if grades[doc] > 0 and doc in texts), "")
        answers = {
            model: [
                Hit(rank, texts[doc], grades.get(doc, 0) > 0)
                for rank, doc in enumerate(measured.docs[model][query][:DOCUMENTS], start=1)
            ]
            for model in models
        }
        return Example(measured.questions.texts[place], before[query], after[query], answers, right)

    return [example(query) for query in won], [example(query) for query in lost]


def _texts(measured: Measured, models: list[str], queries: list[str], places: dict[str, int]) -> dict[str, str]:
    """Texts of the documents shown, and of one relevant document a query."""
    rows = {row for m in models for q in queries for row in measured.best[m].rows[places[q], :DOCUMENTS].tolist()}
    wanted = {doc for q in queries for doc, grade in measured.questions.judgments[q].items() if grade > 0}
    rows.update(measured.corpus.find(wanted).values())
    taken = measured.corpus.take((row for row in rows if row >= 0), ["doc_id", "text"])
    return {row["doc_id"]: row["text"] for row in taken.values()}


def environment() -> dict[str, str]:
    """Versions and hardware that a figure may depend on."""
    packages = {name: version(name) for name in _PACKAGES}
    return {"tripletail": __version__, "python": platform.python_version()} | packages | {"processor": processor()}


def processor() -> str:
    """Name the CPU and how many of it this process may use."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {usable} CPUs"


def commands(run: str, data: str, out: str) -> list[str]:
    """List the commands that made this, each from the settings that its job left: build, mine, train, evaluate."""
    places = {"build": data, "mine": join(run, "negatives"), "train": join(run, "training"), "evaluate": out}
    found = []
    for job, place in places.items():
        fs, config = filesystem(join(place, "config.json"))
        if fs.exists(config):
            given = shlex.join(["--config", join(place, "config.json"), "--run", run])
            found.append(f"python -m scripts.{job} {given}")
    return found
