"""Settings of the `evaluate` job."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.core.config import EncodingJobConfig, without_batch_sizes
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import EncoderConfig
from pipeline.encoder.layer_count import is_cut
from pipeline.evaluation.bm25_tuning import EvaluatedBM25
from pipeline.evaluation.passages import PassageRanking
from pipeline.evaluation.report_data import headline_model
from pipeline.evaluation.results import BM25
from pipeline.evaluation.retention import Guard
from pipeline.evaluation.vector_variants import VariantsConfig
from pipeline.metrics.registry import parse_metric
from pipeline.metrics.retrieval import DEFAULT_METRICS
from pipeline.search.system import System
from pipeline.search.systems import AnySystem, as_settings
from pipeline.storage.files import filesystem, join, read_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class EvaluateConfig(EncodingJobConfig):
    """Rank the corpus for the queries of a split by several models and BM25, compare them, and write the report."""

    common_settings = (
        "run",
        "split",
        "models",
        "baseline",
        "bm25",
        "systems",
        "passages",
        "metrics",
        "guards",
        "overwrite",
    )
    documentation = "pipeline/README.md"

    data: str | None = Field(None, description="build artifact; default {run}/data")
    out: str | None = Field(None, description="where the report goes; default {run}/report")
    split: str = Field("test", description="split whose queries are evaluated")
    encoder: EncoderConfig | None = Field(
        None,
        description="untrained model `base`, whole; default: what training began with. A cut one is `start` beside it",
    )
    models: dict[str, EncoderConfig] = Field(
        {}, description="further encoders by name, a path or settings, in addition to base and tuned ({run}/model)"
    )
    bm25: EvaluatedBM25 | None = Field(EvaluatedBM25(), description="compare with BM25; false for not")
    systems: list[AnySystem] = Field(
        [], description="an encoder and BM25 as one system, such as [mix, rrf], or your own class; needs bm25"
    )
    passages: list[PassageRanking] = Field(
        [],
        description="rank documents by their best passage too, such as {tokens: 128}; several by names of their own, "
        "such as [{full_text: 0, name: best_passage}, {}]",
    )
    tuning: str = Field(
        "dev",
        description="split on whose judged queries open settings of systems, and k1 and b with bm25.tune, are chosen, "
        "where it is another one than the one that is evaluated and has 50 or more",
    )
    baseline: str | None = Field(None, description="model that every other is tested against; default base")
    tests: Literal["baseline", "all_pairs"] = Field("baseline", description="all_pairs: test each model against each")
    variants: VariantsConfig | None = Field(
        VariantsConfig(), description="shortened and quantised vectors, evaluated too; null for none"
    )
    guards: list[Guard] = Field([], description="other corpora: what the models forgot there")
    metrics: list[str] = Field(
        list(DEFAULT_METRICS),
        min_length=1,
        description="such as ndcg@10, or a function of your own as my_module:my_metric@10; the first decides",
    )
    max_queries: int | None = Field(
        None, ge=1, description="evaluate only the first queries that have a relevant document"
    )
    max_triplets: int = Field(5000, ge=1, description="use at most so many triplets of the split")
    training: str | None = Field(None, description="holds metrics.jsonl and config.json; default {run}/training")
    vectors: str | None = Field(
        None, description="embed artifact, used where it is of the same model and corpus; default {run}/vectors"
    )
    seed: int = Field(0, description="seed of random pairs, permutations and bootstrap samples")

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: list[str]) -> list[str]:
        for name in names:
            parse_metric(name)
        return list(dict.fromkeys(names))

    @field_validator("bm25", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return EvaluatedBM25.switched(value)

    @field_validator("systems", mode="before")
    @classmethod
    def _by_name(cls, systems: Any) -> Any:
        """Let `[mix]` mean `[{type: mix}]`."""
        return [as_settings(item) for item in systems]

    @field_validator("passages", mode="before")
    @classmethod
    def _one(cls, passages: Any) -> Any:
        """Let `{tokens: 128}` mean a list of one."""
        return [passages] if isinstance(passages, dict) else passages

    @field_validator("passages")
    @classmethod
    def _names(cls, passages: list[PassageRanking]) -> list[PassageRanking]:
        _check_distinct([ranking.name for ranking in passages])
        return passages

    @model_validator(mode="after")
    def _rows_of_one_name(self) -> "EvaluateConfig":
        labels = {system.label for system in self.systems}
        if taken := next((ranking.name for ranking in self.passages if ranking.name in labels), None):
            raise ValueError(f"passages and a system are both called '{taken}'; set `name` of one")
        return self

    @field_validator("systems")
    @classmethod
    def _distinct(cls, systems: list[System]) -> list[System]:
        _check_distinct([system.label for system in systems])
        return systems

    @field_validator("models", mode="before")
    @classmethod
    def _paths(cls, models: Any) -> Any:
        """Let `{name: path}` mean `{name: {model: path}}`."""
        if not isinstance(models, dict):
            return models
        return {name: {"model": model} if isinstance(model, str) else model for name, model in models.items()}

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

    def path(self, setting: str | None, default: str) -> str:
        """Return the path of a setting, or else a default below the run's directory."""
        return setting or join(self.run, default)

    def result_settings(self) -> dict[str, Any]:
        """Leave out how many work on it, and how much at a time."""
        return without_batch_sizes(
            {key: value for key, value in super().result_settings().items() if key != "num_actors"}
        )

    def resolved(self) -> "EvaluateConfig":
        """Fill in base, tuned and the baseline; the tuned model brings its own length, prompts and layers.

        Raises UserError when the baseline, or a model of `variants.models`, is not compared.
        """
        models = self._all_models()
        names = [*([BM25] if self.bm25 else []), *models]
        baseline = self.baseline or ("base" if "base" in models else next(iter(models), BM25))
        if baseline not in names:
            raise UserError(f"baseline '{baseline}' is not among the models; choose from {', '.join(names)}")
        named = {"variants.models": self.variants.models or []} if self.variants else {}
        named["systems.models"] = [name for system in self.systems for name in system.models or ()]
        by_passages = [f"{model}-{ranking.name}" for model in models for ranking in self.passages]
        for setting, wanted in named.items():
            known = [*models, *(by_passages if setting == "systems.models" else [])]
            if unknown := [name for name in wanted if name not in known]:
                raise UserError(f"{setting}: '{unknown[0]}' is not among the encoders; choose from {', '.join(known)}")
        if self.systems and not self.bm25:
            raise UserError("systems: are made of an encoder and BM25; leave `bm25: false` out")
        return self.model_copy(update={"models": models, "baseline": baseline})

    def _all_models(self) -> dict[str, EncoderConfig]:
        """The untrained and tuned where they are named, there was a training, or no other is asked for; then others."""
        trained = join(self.run, "model")
        fs, trained_path = filesystem(trained)
        defaults = {}
        if not self.models or self.encoder or self._training():
            defaults = untrained_models(self.begun_with())
        if not self.models or fs.exists(trained_path):
            defaults["tuned"] = defaults.get("base", EncoderConfig.model_validate({})).of_saved(trained)
        return {**defaults, **self.models}

    @property
    def variant_models(self) -> tuple[str, ...]:
        """Models whose variants are evaluated."""
        if self.variants is None or not self.models:
            return ()
        subject = headline_model(list(self.models), str(self.baseline))
        return tuple(self.variants.models or [subject])

    def _training(self) -> str | None:
        """Path of the training's own settings, where there was one."""
        path = join(self.path(self.training, "training"), "config.json")
        fs, name = filesystem(path)
        return path if fs.exists(name) else None

    def begun_with(self) -> EncoderConfig:
        """Return `encoder`, else that of the training's own settings; the sample model where there was no training."""
        path = None if self.encoder else self._training()
        return self.encoder or EncoderConfig.model_validate((read_json(path).get("encoder") if path else None) or {})


def _check_distinct(names: Sequence[str]) -> None:
    """Raise ValueError for a name that two have, or that names no file."""
    if bad := next((name for name in names if not _NAME.fullmatch(name) or names.count(name) > 1), None):
        raise ValueError(f"two are called '{bad}', or it holds other than letters, digits, _ . -; set `name`")


def untrained_models(begun_with: EncoderConfig) -> dict[str, EncoderConfig]:
    """The whole untrained model as `base`, and as `start` what training began with, where that was cut from it.

    A model that lost layers or dimensions is a straw man: beating it says nothing about the model that was there.
    """
    if not is_cut(begun_with):
        return {"base": begun_with}
    uncut = begun_with.model_copy(update={"layers": None, "truncate_dim": None})
    return {"base": uncut, "start": begun_with}
