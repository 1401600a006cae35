"""The `evaluate` job: evaluate every model, compare them, write the report."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.core import capacity
from pipeline.core.progress import say
from pipeline.encoder import model_directory
from pipeline.encoder.encoder import EncoderConfig
from pipeline.encoder.layer_count import kept_layers
from pipeline.encoder.transformer_loading import require_files
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.dataset import read_dataset
from pipeline.evaluation.evaluator import evaluate
from pipeline.evaluation.model_card import update_card
from pipeline.evaluation.outputs import (
    UNIT_TABLES,
    print_table,
    queries_csv,
    read_curves,
    runs_table,
    trec_lines,
    unit_tables,
    write_text,
)
from pipeline.evaluation.report_data import build_report_data, commands, headline_model
from pipeline.evaluation.results import EvaluationPlan, Results, tests
from pipeline.evaluation.retention import evaluate_guard, open_guards
from pipeline.metrics.registry import metric_label, parse_metric
from pipeline.metrics.retrieval import depth
from pipeline.report.data import RetentionResult
from pipeline.report.page import render
from pipeline.report.sentences import FEW_QUERIES, small_set
from pipeline.search.rerank import Rerank
from pipeline.storage.artifact import Artifact, Draft, begin
from pipeline.storage.files import filesystem, join, read_json, write_json
from pipeline.storage.fingerprints import fingerprint_file


def run(config: EvaluateConfig) -> Artifact:
    """Evaluate, compare, write; a finished report of the same inputs and settings is left as it is.

    Raises UserError where there is nothing to evaluate, or a model, guard or artifact cannot be opened.
    """
    config = config.resolved()
    data = Artifact.open(config.path(config.data, "data"), "build")
    out, training = config.path(config.out, "report"), config.path(config.training, "training")
    dataset = read_dataset(data, config.split, config.max_queries, config.max_triplets)
    opened = open_guards(config.guards, config.max_triplets)
    inputs = _inputs(config, data, training) | {
        f"guard {guard.guard.name}": guard.data.manifest.fingerprint for guard in opened
    }
    draft = begin(out, "evaluate", config.result_settings(), inputs, overwrite=config.overwrite)
    if isinstance(draft, Artifact):
        return _print_finished(config, draft)
    documents = sum(item.rows("corpus") for item in (data, *(guard.data for guard in opened)))
    capacity.start("evaluate", config, documents + len(dataset.texts))
    plan = EvaluationPlan(
        models=config.models,
        bm25=config.bm25,
        metrics=config.metrics,
        vectors=config.path(config.vectors, "vectors"),
        actors=config.num_actors,
        seed=config.seed,
        variants=config.variants,
        variant_models=config.variant_models,
        systems=tuple(config.systems),
        passages=tuple(config.passages),
        split=config.split,
        tuning=config.tuning,
    )
    results = evaluate(data, dataset, plan)
    for name, encoder in config.models.items():
        results.scores[name] |= kept_layers(encoder, config.begun_with() if name == "tuned" else None)
    guards = [evaluate_guard(guard, plan, str(config.baseline)) for guard in opened]
    return _write(config, data, draft, results, read_curves(training), guards)


def _inputs(config: EvaluateConfig, data: Artifact, training: str) -> dict[str, str]:
    """Fingerprint all that the report is made of; a model without tokenizer or weights is refused here."""
    fs, root = filesystem(training)
    curves = join(root, "metrics.jsonl")
    inputs = {"data": data.manifest.fingerprint}
    inputs |= {f"model {name}": _fingerprint_model(model) for name, model in config.models.items()}
    rerankers = {item.label: item.cross_encoder.model for item in config.systems if isinstance(item, Rerank)}
    inputs |= {f"cross_encoder {name}": _digest_of(model) for name, model in rerankers.items()}
    files = {name: parse_metric(name).metric.source_file for name in config.metrics}
    inputs |= {f"metric {name}": fingerprint_file(file) for name, file in files.items() if file}
    return inputs | ({"training": fingerprint_file(join(training, "metrics.jsonl"))} if fs.exists(curves) else {})


def _digest_of(model: str) -> str:
    return model_directory.content_digest(model_directory.resolve_model(model))


def _fingerprint_model(config: EncoderConfig) -> str:
    """Digest of a model's files; raises UserError where, with an adapter's base, they lack weights or tokenizer."""
    folder = model_directory.resolve_model(
        config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    require_files(folder)
    return model_directory.content_digest(folder)


def _print_finished(config: EvaluateConfig, done: Artifact) -> Artifact:
    metrics = read_json(join(done.path, "metrics.json"))
    guards = [RetentionResult(**guard) for guard in metrics["guards"]]
    _print(config, metrics["models"], metrics["comparisons"], metrics["queries"], guards)
    say(f"evaluate: nothing to do, {join(done.path, 'report.html')} was made of the same inputs and settings")
    return done


def _write(
    config: EvaluateConfig,
    data: Artifact,
    draft: Draft,
    results: Results,
    curves: list[dict[str, Any]],
    guards: list[RetentionResult],
) -> Artifact:
    """Write every output, the manifest last."""
    baseline = str(config.baseline)
    comparisons = tests(results, baseline, config.seed, all_pairs=config.tests == "all_pairs")
    out, dataset = draft.path, results.dataset
    for model in results.docs:
        draft.write("runs", runs_table(results, model), part=model)
        write_text(join(out, f"{model}.trec"), trec_lines(results, model))
    if table := queries_csv(results, config.metrics):
        write_text(join(out, "queries.csv"), table)
    for name, rows in unit_tables(results).items():
        draft.write(name, rows)
    report = build_report_data(
        results,
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
    write_text(join(out, "report.html"), render(report))
    trained = join(config.run, "model")
    if report.subject in config.models and config.models[report.subject].model == trained:
        update_card(trained, report)
    metrics = _metrics_json(config, results, comparisons, guards)
    metrics["query_groups"] = [asdict(group) for group in report.query_groups]
    metrics["unfound_queries"] = len(report.unfound)
    write_json(join(out, "metrics.json"), metrics)
    _print(config, results.scores, comparisons, len(dataset.query_ids), guards)
    draft.drop(dataset.skipped)
    done = draft.finish(["runs", *UNIT_TABLES], pace=results.pace)
    say(f"evaluate: report in {join(out, 'report.html')}")
    return done


def _print(
    config: EvaluateConfig,
    scores: Mapping[str, Any],
    comparisons: list[dict[str, Any]],
    queries: int,
    guards: list[RetentionResult],
) -> None:
    against = [test for test in comparisons if test["baseline"] == config.baseline]
    print_table(scores, against, config.metrics, f"split {config.split}, {queries:,} queries")
    subject = headline_model(list(config.models), str(config.baseline))
    deciding = [test for test in against if (test["model"], test["metric"]) == (subject, config.metrics[0])]
    if deciding and 0 < queries < FEW_QUERIES:
        few = small_set(queries, metric_label(config.metrics[0]), deciding[0].get("detectable", 0.0))
        say(f"evaluate: {few} `tripletail cross-validate` asks every question once.")
    for guard in guards:
        title = f"guard {guard.name}, split {guard.split}, {guard.queries:,} queries"
        print_table(guard.models, guard.comparisons, config.metrics, title)


def _metrics_json(
    config: EvaluateConfig,
    results: Results,
    comparisons: list[dict[str, Any]],
    guards: list[RetentionResult],
) -> dict[str, Any]:
    dataset = results.dataset
    return {
        "split": config.split,
        "queries": len(dataset.query_ids),
        "documents": len(results.corpus),
        "depth": depth(config.metrics),
        "ndcg_gain": "2^grade - 1",
        "baseline": config.baseline,
        "triplets": len(dataset.triplets),
        "triplet_source": results.triplet_source,
        "skipped": dataset.skipped,
        "labelled_pairs": len(dataset.scored_pairs),
        "sampled_documents": len(results.sample.rows),
        "models": results.scores,
        "variants": [variant.as_json() for variant in results.variants],
        "comparisons": comparisons,
        "guards": [asdict(guard) for guard in guards],
    }
