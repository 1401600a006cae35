"""What is to be measured, and what came out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.encoder.encoder import EncoderConfig
from pipeline.evaluation.comparisons import Test, compare, compare_statistics, contrasts
from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.corpus_sample import Sample
from pipeline.evaluation.dataset import Questions
from pipeline.evaluation.scores import Statistic
from pipeline.evaluation.similarity_samples import Probes
from pipeline.evaluation.vector_variants import Variant, VariantsConfig
from pipeline.metrics.retrieval import PerQuery
from pipeline.search.exact import Best

BM25 = "bm25"


@dataclass(frozen=True)
class Smaller:
    """A variant of a model: its figures, values a query, and tests against the model's whole vectors."""

    model: str
    variant: Variant
    figures: dict[str, Any]
    values: PerQuery
    tests: list[Test]

    @property
    def name(self) -> str:
        """How files call it: tuned:192:int8."""
        return f"{self.model}:{self.variant.dim}:{self.variant.dtype}"

    def told(self) -> dict[str, Any]:
        """What metrics.json says of it."""
        return {
            "model": self.model,
            "dim": self.variant.dim,
            "dtype": self.variant.dtype,
            "bytes": self.variant.bytes,
            **self.figures,
            "comparisons": self.tests,
        }


@dataclass
class Measured:
    """What came out: by model its ranking, values a query and a triplet, statistics, figures; and what is drawn."""

    corpus: Corpus
    questions: Questions
    probes: Probes = field(default_factory=Probes)
    best: dict[str, Best] = field(default_factory=dict)
    docs: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    values: dict[str, PerQuery] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    similarities: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    triplet_source: str = ""
    triplets: dict[str, PerQuery] = field(default_factory=dict)
    cosines: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)  # of labelled pairs
    statistics: dict[str, dict[str, Statistic]] = field(default_factory=dict)
    sample: Sample = field(default_factory=Sample)
    sampled: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)  # vectors of the sample
    smaller: list[Smaller] = field(default_factory=list)
    pace: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    models: Mapping[str, EncoderConfig]
    bm25: bool
    metrics: list[str]
    vectors: str
    actors: int | None
    seed: int
    variants: VariantsConfig | None = None
    shrunk: tuple[str, ...] = ()  # models whose variants are measured


def tests(measured: Measured, baseline: str, seed: int, *, every: bool = False) -> list[Test]:
    """Test every model against the baseline, or all pairs of models, on all that was measured."""
    pairs = contrasts(measured.figures, baseline, every=every)
    return [
        *compare(measured.values, pairs, seed),
        *compare(measured.triplets, pairs, seed),
        *compare_statistics(measured.statistics, pairs),
    ]
