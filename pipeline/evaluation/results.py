"""The plan of an evaluation and its results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.encoder.encoder import EncoderConfig
from pipeline.evaluation.bm25_tuning import EvaluatedBM25
from pipeline.evaluation.comparisons import Test, compare, compare_statistics, model_pairs
from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.corpus_sample import Sample
from pipeline.evaluation.dataset import EvalDataset
from pipeline.evaluation.passages import PassageRanking, PassageResult
from pipeline.evaluation.scores import Statistic
from pipeline.evaluation.similarity_samples import SimilarityPairs
from pipeline.evaluation.vector_variants import Variant, VariantsConfig
from pipeline.metrics.metric import PerQuery
from pipeline.search.exact import TopK
from pipeline.search.system import System

BM25 = "bm25"


@dataclass(frozen=True)
class VariantResult:
    """A variant of a model: its scores, also query by query, and tests against the model's full vectors."""

    model: str
    variant: Variant
    scores: dict[str, Any]
    values: PerQuery
    tests: list[Test]

    @property
    def name(self) -> str:
        """Name in tables and tests: tuned:192:int8."""
        return f"{self.model}:{self.variant.dim}:{self.variant.dtype}"

    def as_json(self) -> dict[str, Any]:
        """Return the entry of metrics.json."""
        return {
            "model": self.model,
            "dim": self.variant.dim,
            "dtype": self.variant.dtype,
            "bytes": self.variant.bytes,
            **self.scores,
            "comparisons": self.tests,
        }


@dataclass(frozen=True)
class SystemResult:
    """A system of an encoder and BM25, as it was ranked, and how its open settings were chosen."""

    model: str
    system: System
    tuned: dict[str, Any]  # split, queries, metric and scores by setting; or the reason why nothing was chosen

    @property
    def parts(self) -> tuple[str, str]:
        """What it is made of, by name."""
        return (self.model, BM25)

    def as_json(self) -> dict[str, Any]:
        """Return the entry of metrics.json."""
        return {"model": self.model, **self.system.settings(), "tuning": self.tuned}


@dataclass
class Results:
    """Results by model: rankings, values by query and triplet, statistics and scores; and the sample that is drawn."""

    corpus: Corpus
    dataset: EvalDataset
    pairs: SimilarityPairs = field(default_factory=SimilarityPairs)
    best: dict[str, TopK] = field(default_factory=dict)
    docs: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    values: dict[str, PerQuery] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    similarities: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    triplet_source: str = ""
    triplets: dict[str, PerQuery] = field(default_factory=dict)
    cosines: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)  # of scored pairs
    statistics: dict[str, dict[str, Statistic]] = field(default_factory=dict)
    sample: Sample = field(default_factory=Sample)
    sampled: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)  # vectors of the sample
    variants: list[VariantResult] = field(default_factory=list)
    pace: dict[str, dict[str, float]] = field(default_factory=dict)
    tuning: dict[str, TopK] = field(default_factory=dict)  # best rows of the tuning queries
    systems: dict[str, SystemResult] = field(default_factory=dict)
    passages: dict[str, PassageResult] = field(default_factory=dict)  # rankings by passages

    @property
    def made_of_others(self) -> dict[str, SystemResult | PassageResult]:
        """All that is no model of its own, by name: rankings by passages, and systems."""
        return {**self.passages, **self.systems}


@dataclass(frozen=True)
class EvaluationPlan:
    """Which models are evaluated, on which metrics, and with how many actors."""

    models: Mapping[str, EncoderConfig]
    bm25: EvaluatedBM25 | None
    metrics: list[str]
    vectors: str
    actors: int | None
    seed: int
    variants: VariantsConfig | None = None
    variant_models: tuple[str, ...] = ()  # models whose variants are evaluated
    systems: tuple[System, ...] = ()
    passages: tuple[PassageRanking, ...] = ()  # rankings by passages, of every encoder
    split: str = ""
    tuning: str = ""  # split on which open settings of systems are chosen

    @property
    def is_tuned(self) -> bool:
        """Whether BM25 or a system has a setting that is to be chosen."""
        return bool(self.bm25 and self.bm25.tune) or any(system.choices() for system in self.systems)


def tests(results: Results, baseline: str, seed: int, *, all_pairs: bool = False) -> list[Test]:
    """Test every model against the baseline, or all pairs of models, on every metric; systems against their parts."""
    pairs = model_pairs(results.scores, baseline, all_pairs=all_pairs)
    of_parts = [(name, part) for name, result in results.made_of_others.items() for part in result.parts]
    pairs += [pair for pair in of_parts if pair not in pairs and pair[::-1] not in pairs]
    return [
        *compare(results.values, pairs, seed),
        *compare(results.triplets, pairs, seed),
        *compare_statistics(results.statistics, pairs),
    ]
