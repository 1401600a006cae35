"""From the results of an evaluation to the data of its report."""

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import __version__
from pipeline.encoder.truncation import describe
from pipeline.evaluation import projection
from pipeline.evaluation.bm25_tuning import label
from pipeline.evaluation.query_groups import query_groups, unfound
from pipeline.evaluation.results import BM25, Results
from pipeline.metrics.registry import RETRIEVAL, TASKS, higher_is_better, metric_label
from pipeline.report.data import DocumentMap, Example, Hit, MetricInfo, ReportData, RetentionResult
from pipeline.report.format import decimal
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import filesystem, join

EXAMPLES, DOCUMENTS = 5, 3
_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "numpy", "pytrec-eval-terrier", "bm25s")


def headline_model(models: Sequence[str], baseline: str) -> str:
    """Name the model that the headline is about: `tuned`, else the last that is not the baseline."""
    others = [name for name in models if name != baseline]
    if "tuned" in others:
        return "tuned"
    return others[-1] if others else baseline


def build_report_data(
    results: Results,
    data: Artifact,
    comparisons: list[dict[str, Any]],
    curves: list[dict[str, Any]],
    guards: list[RetentionResult],
    *,
    run: str,
    split: str,
    baseline: str,
    metrics: list[str],
    seed: int,
    commands: list[str],
) -> ReportData:
    """Gather everything that the page shows."""
    subject = headline_model([name for name in results.scores if name not in results.made_of_others], baseline)
    manifest = data.manifest
    won, lost = _examples(results, subject, baseline, metrics[0])
    return ReportData(
        run=run,
        split=split,
        queries=len(results.dataset.query_ids),
        documents=len(results.corpus),
        baseline=baseline,
        subject=subject,
        metrics=metrics,
        scores=results.scores,
        comparisons=comparisons,
        metric_info=metric_info(metrics, curves),
        guards=guards,
        scored_pairs=len(results.dataset.scored_pairs),
        triplet_source=results.triplet_source,
        curves=curves,
        similarities=_similarities(results, subject, baseline),
        won=won,
        lost=lost,
        skipped=results.dataset.skipped,
        tables={name: table.rows for name, table in manifest.tables.items()},
        dropped=manifest.dropped,
        leakage=manifest.notes.get("leakage") or {},
        data={"data": data.path, "data fingerprint": manifest.fingerprint, "data made": manifest.created},
        environment=environment(),
        commands=commands,
        variants=[variant.as_json() for variant in results.variants],
        document_maps=_document_maps(results, subject, baseline, seed),
        document_map_method=projection.METHOD,
        truncation=truncation_sentences(results.scores),
        systems=system_sentences(results),
        query_groups=query_groups(results, metrics[0]),
        unfound=unfound(results, metrics[0]),
    )


def system_sentences(results: Results) -> dict[str, str]:
    """Say of every ranking by passages and every system how it ranks and how its setting was chosen, by name.

    So of BM25 where it was tuned.
    """
    bm25 = results.scores.get(BM25, {})
    tuned = {BM25: f"{BM25}: {label(bm25['settings'])}{_tuned(bm25['tuning'])}."} if bm25.get("tuning") else {}
    by_passages = {
        name: f"{name}: {result.model} ranks {result.ranking.describe()}." for name, result in results.passages.items()
    }
    return (
        tuned
        | by_passages
        | {
            name: f"{name}: the best {result.system.joined} documents of {result.model} and of {BM25}, "
            f"{result.system.describe()}{_tuned(result.tuned)}."
            for name, result in results.systems.items()
        }
    )


def _tuned(facts: Mapping[str, Any]) -> str:
    """Say how a setting was chosen; nothing where it was given."""
    if not facts:
        return ""
    if "reason" in facts:
        return f" (the default, since {facts['reason']})"
    values = [decimal(value) for value in facts["scores"].values()]
    return (
        f" (the best of {len(values)} settings on {facts['queries']:,} queries of split {facts['split']}, where their "
        f"{metric_label(facts['metric'])} is {min(values)} to {max(values)})"
    )


def truncation_sentences(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what each model cuts off queries and documents; models that cut the same share a sentence."""
    models: dict[str, list[str]] = {}
    for name, of_model in scores.items():
        for note in of_model.get("truncation", {}).values():
            if note["texts"]:
                models.setdefault(describe(note), []).append(name)
    return [f"{', '.join(names)}: {sentence}." for sentence, names in models.items()]


def metric_info(metrics: Sequence[str], curves: Sequence[Mapping[str, Any]] = ()) -> dict[str, MetricInfo]:
    """Describe for the page the metrics of the recipe, those of learning curves, and all of the other tasks."""
    in_curves = {key.rsplit("/", 1)[-1] for row in curves for key in row}
    names = [*metrics, *sorted(name for name in in_curves - set(metrics) if name.partition("@")[0] in RETRIEVAL)]
    info = {name: MetricInfo(metric_label(name), higher_is_better(name)) for name in names}
    return info | {
        name: MetricInfo(
            metric.label,
            metric.higher_is_better,
            task=True,
            headline=metric.headline,
            threshold=metric.threshold,
            explanation=metric.explanation,
        )
        for name, metric in TASKS.items()
    }


def _document_maps(results: Results, subject: str, baseline: str, seed: int) -> dict[str, DocumentMap]:
    """Draw the sampled documents under the baseline and the subject, where they are encoders and enough to draw."""
    sample, chosen = results.sample, projection.documents_to_draw(results.sample)
    if len(chosen) < projection.MIN_DOCUMENTS:
        return {}
    colours = projection.colours(sample)
    names = [colours[index] for index in chosen]
    texts = [sample.texts[index] for index in chosen]
    return {
        model: DocumentMap(projection.project(results.sampled[model][chosen], seed), names, texts)
        for model in dict.fromkeys([baseline, subject])
        if model in results.sampled
    }


def _similarities(results: Results, subject: str, baseline: str) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    """Cosines of relevant, hard and random pairs under the baseline and the subject, where they are encoders."""
    labels = {"relevant": "relevant", "negative": "hard negative", "random": "random"}
    return {
        model: {
            label: values[np.isfinite(values)]
            for part, label in labels.items()
            for values in [results.similarities[model][results.pairs.groups[part]]]
        }
        for model in dict.fromkeys([baseline, subject])
        if model in results.similarities
    }


def _examples(results: Results, subject: str, baseline: str, metric: str) -> tuple[list[Example], list[Example]]:
    """Choose the queries whose metric became better and worse by most, ties in query order."""
    if subject == baseline or not results.dataset.query_ids:
        return [], []
    after, before = results.values[subject][metric], results.values[baseline][metric]
    sign = 1 if higher_is_better(metric) else -1
    gain = {query: sign * (after[query] - before[query]) for query in after}
    index_of = {query: index for index, query in enumerate(results.dataset.query_ids)}
    ranked = sorted(index_of, key=lambda query: (-gain[query], index_of[query]))
    won = [query for query in ranked if gain[query] > 0][:EXAMPLES]
    lost = [query for query in reversed(ranked) if gain[query] < 0][:EXAMPLES]
    models = [baseline, subject]
    texts = _texts(results, models, [*won, *lost], index_of)

    def example(query: str) -> Example:
        grades, index = results.dataset.qrels[query], index_of[query]
        relevant = next((texts[doc] for doc in grades if grades[doc] > 0 and doc in texts), "")
        answers = {
            model: [
                Hit(rank, texts[doc], grades.get(doc, 0) > 0)
                for rank, doc in enumerate(results.docs[model][query][:DOCUMENTS], start=1)
            ]
            for model in models
        }
        return Example(results.dataset.texts[index], before[query], after[query], answers, relevant)

    return [example(query) for query in won], [example(query) for query in lost]


def _texts(results: Results, models: list[str], queries: list[str], index_of: dict[str, int]) -> dict[str, str]:
    """Texts of the documents of the examples, and of the relevant documents of each query."""
    rows = {row for m in models for q in queries for row in results.best[m].rows[index_of[q], :DOCUMENTS].tolist()}
    relevant = {doc for q in queries for doc, grade in results.dataset.qrels[q].items() if grade > 0}
    rows.update(results.corpus.find(relevant).values())
    documents = results.corpus.take((row for row in rows if row >= 0), ["doc_id", "text"])
    return {row["doc_id"]: row["text"] for row in documents.values()}


def environment() -> dict[str, str]:
    """Versions and hardware that a score may depend on."""
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
    """List the commands that made this, each from the settings that its job left, in their order."""
    trainings = {"train_reranker": join(run, "reranker-training"), "train": join(run, "training")}
    paths = {"build": data, "mine": join(run, "negatives"), **trainings, "evaluate": out}
    lines = []
    for job, path in paths.items():
        fs, config = filesystem(join(path, "config.json"))
        if fs.exists(config):
            flags = shlex.join(["--config", join(path, "config.json"), "--run", run])
            lines.append(f"tripletail {job} {flags}")
    return lines
