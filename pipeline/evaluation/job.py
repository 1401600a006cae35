"""The `evaluate` job: its settings and its run."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline import engine, modeldir
from pipeline.artifact import Artifact, Draft, begin, digest
from pipeline.config import JobConfig, unsized
from pipeline.console import say
from pipeline.encoder import EncoderConfig
from pipeline.errors import UserError
from pipeline.evaluate.card import tell_card
from pipeline.evaluate.guards import Guard, measure_guard, watch
from pipeline.evaluate.measure import measure
from pipeline.evaluate.measured import BM25, Measured, Plan, tests
from pipeline.evaluate.outputs import (
    UNIT_TABLES,
    print_table,
    read_curves,
    runs_table,
    trec_lines,
    unit_tables,
    write_text,
)
from pipeline.evaluate.questions import Questions, read_questions
from pipeline.evaluate.story import commands, subject_of, tell
from pipeline.evaluate.variants import VariantsConfig
from pipeline.files import filesystem, fingerprint_file, join, read_json, write_json
from pipeline.metrics import RETRIEVAL, Metric, depth
from pipeline.report.findings import Kept
from pipeline.report.page import render

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class EvaluateConfig(JobConfig):
    """Rank the corpus for the queries of a split by several models, compare them and write the report."""

    data: str | None = Field(None, description="build artifact; default {run}/data")
    out: str | None = Field(None, description="where the report goes; default {run}/report")
    split: str = Field("test", description="split whose queries are asked")
    encoder: EncoderConfig | None = Field(None, description="untrained model `base`; default: what training began with")
    models: dict[str, EncoderConfig] = Field(
        {}, description="further encoders by name, a path or settings, beside base and tuned ({run}/model)"
    )
    bm25: bool = Field(True, description="compare with BM25, which holds the corpus in memory")
    baseline: str | None = Field(None, description="model that every other is tested against; default base")
    tests: Literal["baseline", "every"] = Field("baseline", description="every: test each pair of models")
    variants: VariantsConfig | None = Field(
        VariantsConfig(), description="cut and quantised vectors, measured beside; null for none"
    )
    guards: list[Guard] = Field([], description="other corpora: what the models lost or kept there")
    metrics: list[str] = Field(list(RETRIEVAL), min_length=1, description="the first decides the headline")
    max_queries: int | None = Field(None, ge=1, description="ask only the first queries that have a relevant document")
    max_triplets: int = Field(5000, ge=1, description="use at most so many triplets of the split")
    training: str | None = Field(None, description="holds metrics.jsonl and config.json; default {run}/training")
    vectors: str | None = Field(None, description="embed artifact, read where it fits a model; default {run}/vectors")
    num_actors: int | None = Field(
        None, ge=1, description="encoders at work; default one a GPU, else one for four CPUs"
    )
    seed: int = Field(0, description="decides random pairs, permutations and bootstrap")

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: list[str]) -> list[str]:
        for name in names:
            Metric.parse(name)
        return list(dict.fromkeys(names))

    @field_validator("models", mode="before")
    @classmethod
    def _paths(cls, models: Any) -> Any:
        """Let `{name: path}` mean `{name: {model: path}}`."""
        if not isinstance(models, dict):
            return models
        return {name: {"model": one} if isinstance(one, str) else one for name, one in models.items()}

    @field_validator("models")
    @classmethod
    def _file_names(cls, models: dict[str, EncoderConfig]) -> dict[str, EncoderConfig]:
        for name in models:
            if name == BM25 or not _NAME.fullmatch(name):
                raise ValueError(f"model name '{name}': use letters, digits, _ . - and not {BM25}; it names files")
        return models

    @field_validator("guards")
    @classmethod
    def _different(cls, guards: list[Guard]) -> list[Guard]:
        if len({guard.name for guard in guards}) < len(guards):
            raise ValueError("every guard needs a name of its own")
        return guards

    def recipes(self) -> list[str]:
        """Return the recipes of the guards."""
        return [guard.recipe for guard in self.guards if guard.recipe]

    def place(self, given: str | None, default: str) -> str:
        """Return a place: as given, else below the run."""
        return given or join(self.run, default)

    def digested(self) -> dict[str, Any]:
        """Leave out how many work on it, and how much at a time."""
        return unsized({key: value for key, value in super().digested().items() if key != "num_actors"})

    def resolved(self) -> "EvaluateConfig":
        """Fill in base, tuned and the baseline; the tuned model brings its own length, prompts and layers.

        Raises UserError when the baseline, or a model whose variants are wanted, is not compared.
        """
        models = self._all_models()
        names = [*([BM25] if self.bm25 else []), *models]
        baseline = self.baseline or ("base" if "base" in models else next(iter(models), BM25))
        if baseline not in names:
            raise UserError(f"baseline '{baseline}' is not among the models; choose from {', '.join(names)}")
        for name in (self.variants.models or []) if self.variants else []:
            if name not in models:
                raise UserError(f"variants.models: '{name}' is not among the encoders; choose from {', '.join(models)}")
        return self.model_copy(update={"models": models, "baseline": baseline})

    def _all_models(self) -> dict[str, EncoderConfig]:
        """Base and tuned where they are named, there was a training, or nothing else is asked for; then all others."""
        trained = join(self.run, "model")
        fs, place = filesystem(trained)
        defaults = {}
        if not self.models or self.encoder or self._training():
            defaults["base"] = self.encoder or self._began_with()
        if not self.models or fs.exists(place):
            tuned = {"model": trained, "max_length": None, "prompts": None, "layers": None}
            defaults["tuned"] = defaults.get("base", EncoderConfig.model_validate({})).model_copy(update=tuned)
        return {**defaults, **self.models}

    @property
    def shrunk(self) -> tuple[str, ...]:
        """Models whose variants are measured."""
        if self.variants is None or not self.models:
            return ()
        subject = subject_of(list(self.models), str(self.baseline))
        return tuple(self.variants.models or [subject])

    def _training(self) -> str | None:
        """Path of the training's own settings, where there was one."""
        path = join(self.place(self.training, "training"), "config.json")
        fs, name = filesystem(path)
        return path if fs.exists(name) else None

    def _began_with(self) -> EncoderConfig:
        """Return the encoder of the training's own settings; the sample model where there was no training."""
        path = self._training()
        return EncoderConfig.model_validate((read_json(path).get("encoder") if path else None) or {})


def run(config: EvaluateConfig) -> Artifact:
    """Measure, compare, write; a finished report of the same inputs and settings is left as it is."""
    config = config.resolved()
    data = Artifact.open(config.place(config.data, "data"), "build")
    out, training = config.place(config.out, "report"), config.place(config.training, "training")
    questions = read_questions(data, config.split, config.max_queries, config.max_triplets)
    watched = watch(config.guards, config.max_triplets)
    inputs = _inputs(config, data, training) | {f"guard {w.guard.name}": w.data.manifest.fingerprint for w in watched}
    draft = begin(out, "evaluate", config.digested(), inputs, overwrite=config.overwrite)
    if isinstance(draft, Artifact):
        return _already(config, draft)
    engine.start()
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
    folder = modeldir.find(config.model)
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
