"""The `evaluate` job: its settings and its run."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.core import ray_session
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.encoder import model_directory
from pipeline.encoder.encoder import EncoderConfig
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.dataset import Questions, read_questions
from pipeline.evaluation.evaluator import measure
from pipeline.evaluation.model_card import tell_card
from pipeline.evaluation.outputs import (
    UNIT_TABLES,
    print_table,
    read_curves,
    runs_table,
    trec_lines,
    unit_tables,
    write_text,
)
from pipeline.evaluation.report_data import commands, tell
from pipeline.evaluation.results import Measured, Plan, tests
from pipeline.evaluation.retention import measure_guard, watch
from pipeline.metrics.retrieval import depth
from pipeline.report.data import Kept
from pipeline.report.page import render
from pipeline.storage.artifact import Artifact, Draft, begin, digest
from pipeline.storage.files import filesystem, fingerprint_file, join, read_json, write_json


def run(config: EvaluateConfig) -> Artifact:
    """Measure, compare, write; a finished report of the same inputs and settings is left as it is."""
    config = config.resolved()
    data = Artifact.open(config.place(config.data, "data"), "build")
    out, training = config.place(config.out, "report"), config.place(config.training, "training")
    questions = read_questions(data, config.split, config.max_queries, config.max_triplets)
    watched = watch(config.guards, config.max_triplets)
    inputs = _inputs(config, data, training) | {f"guard {w.guard.name}": w.data.manifest.fingerprint for w in watched}
    draft = begin(out, "evaluate", config.result_settings(), inputs, overwrite=config.overwrite)
    if isinstance(draft, Artifact):
        return _already(config, draft)
    ray_session.start()
    plan = Plan(
        models=config.models,
        bm25=config.bm25,
        metrics=config.metrics,
        vectors=config.place(config.vectors, "vectors"),
        actors=config.num_actors,
        seed=config.seed,
        variants=config.variants,
        shrunk=config.shrunk,
    )
    measured = measure(data, questions, plan)
    guards = [measure_guard(one, plan, str(config.baseline)) for one in watched]
    return _write(config, data, draft, measured, read_curves(training), guards)


def _inputs(config: EvaluateConfig, data: Artifact, training: str) -> dict[str, str]:
    """Fingerprint all that the report is made of; a model without tokenizer or weights is refused here."""
    fs, root = filesystem(training)
    curves = join(root, "metrics.jsonl")
    found = {"data": data.manifest.fingerprint}
    found |= {f"model {name}": _fingerprint_model(model) for name, model in config.models.items()}
    return found | ({"training": fingerprint_file(join(training, "metrics.jsonl"))} if fs.exists(curves) else {})


def _fingerprint_model(config: EncoderConfig) -> str:
    folder = model_directory.resolve_model(config.model)
    fs, root = filesystem(folder)
    kinds = (".safetensors", ".json", ".txt", ".model")
    files = sorted(name for name in fs.find(root) if name.endswith(kinds))
    for wanted, kind in (((".safetensors",), "weights"), (("tokenizer.json", "vocab.txt", ".model"), "tokenizer")):
        if not any(name.endswith(wanted) for name in files):
            raise UserError(f"model {folder}: has no {kind} (no {' or '.join(wanted)})")
    content = [(name.removeprefix(root), fingerprint_file(name)) for name in files if not _record_of_run(name)]
    return digest(content)


def _record_of_run(name: str) -> bool:
    """Whether a JSON file only records how a model was made, with times in it."""
    return name.rsplit("/", 1)[-1] in {"manifest.json", "plan.json"}


def _already(config: EvaluateConfig, done: Artifact) -> Artifact:
    found = read_json(join(done.path, "metrics.json"))
    guards = [Kept(**guard) for guard in found["guards"]]
    _print(config, found["models"], found["comparisons"], found["queries"], guards)
    say(f"evaluate: nothing to do, {join(done.path, 'report.html')} was made of the same inputs and settings")
    return done


def _write(
    config: EvaluateConfig,
    data: Artifact,
    draft: Draft,
    measured: Measured,
    curves: list[dict[str, Any]],
    guards: list[Kept],
) -> Artifact:
    """Write every output, the manifest last."""
    baseline = str(config.baseline)
    comparisons = tests(measured, baseline, config.seed, every=config.tests == "every")
    out, questions = draft.path, measured.questions
    for model in measured.docs:
        draft.write("runs", runs_table(measured, model), part=model)
        write_text(join(out, f"{model}.trec"), trec_lines(measured, model))
    for name, rows in unit_tables(measured).items():
        draft.write(name, rows)
    findings = tell(
        measured,
        data,
        comparisons,
        curves,
        guards,
        run=config.run,
        split=config.split,
        baseline=baseline,
        metrics=config.metrics,
        seed=config.seed,
        commands=commands(config.run, data.path, out),
    )
    write_text(join(out, "report.html"), render(findings))
    trained = join(config.run, "model")
    if findings.subject in config.models and config.models[findings.subject].model == trained:
        tell_card(trained, findings)
    write_json(join(out, "metrics.json"), _figures(config, measured, questions, comparisons, guards))
    _print(config, measured.figures, comparisons, len(questions.query_ids), guards)
    draft.drop(questions.skipped)
    done = draft.finish(["runs", *UNIT_TABLES], pace=measured.pace)
    say(f"evaluate: report in {join(out, 'report.html')}")
    return done


def _print(
    config: EvaluateConfig,
    figures: Mapping[str, Any],
    comparisons: list[dict[str, Any]],
    queries: int,
    guards: list[Kept],
) -> None:
    against = [test for test in comparisons if test["baseline"] == config.baseline]
    print_table(figures, against, config.metrics, f"split {config.split}, {queries:,} queries")
    for guard in guards:
        title = f"guard {guard.name}, split {guard.split}, {guard.queries:,} queries"
        print_table(guard.models, guard.comparisons, config.metrics, title)


def _figures(
    config: EvaluateConfig,
    measured: Measured,
    questions: Questions,
    comparisons: list[dict[str, Any]],
    guards: list[Kept],
) -> dict[str, Any]:
    return {
        "split": config.split,
        "queries": len(questions.query_ids),
        "documents": len(measured.corpus),
        "depth": depth(config.metrics),
        "ndcg_gain": "2^grade - 1",
        "baseline": config.baseline,
        "triplets": len(questions.triplets),
        "triplet_source": measured.triplet_source,
        "skipped": questions.skipped,
        "labelled_pairs": len(questions.labelled),
        "sampled_documents": len(measured.sample.rows),
        "models": measured.figures,
        "variants": [smaller.told() for smaller in measured.smaller],
        "comparisons": comparisons,
        "guards": [asdict(guard) for guard in guards],
    }
