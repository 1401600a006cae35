"""From rankings and similarities to the scores of a report: means and statistics, each with its interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.evaluation import duplicates
from pipeline.evaluation.corpus_sample import Sample
from pipeline.evaluation.dataset import EvalDataset
from pipeline.evaluation.similarity_samples import SimilarityPairs
from pipeline.metrics import clustering, pair_scores, registry
from pipeline.metrics.metric import PerQuery
from pipeline.metrics.retrieval import mean
from pipeline.metrics.significance import bootstrap_interval, percentiles, resamples
from pipeline.metrics.triplets import triplet_margins

Floats = npt.NDArray[np.float32]
Weighted = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

RESAMPLES, MIN_RESAMPLES, _MAX_NUMBERS = 2000, 500, 10_000_000  # fewer resamples of many units, which vary less
TEXTS_MINED = 20_000


@dataclass(frozen=True)
class Statistic:
    """A score that is no mean over units, and its bootstrap samples [S]; all models share the resamples."""

    value: float
    samples: npt.NDArray[np.float64]

    @classmethod
    def of(cls, statistic: Weighted, units: int, seed: int, width: int = 0) -> "Statistic":
        """Compute a statistic of N units, a function of weights [S, N] that makes `width` numbers of a sample."""
        count = max(MIN_RESAMPLES, min(RESAMPLES, _MAX_NUMBERS // max(units, width, 1)))
        samples = [statistic(weights) for weights in resamples(units, count, seed, width)]
        return cls(float(statistic(pair_scores.ones(units))[0]), np.concatenate(samples))

    def centred(self) -> "Statistic":
        """Move the samples to the value: where resampling itself raises it, only their spread says something."""
        return Statistic(self.value, self.samples + (self.value - self.samples.mean()))


def mean_scores(values: PerQuery, seed: int) -> dict[str, Any]:
    """Mean of each metric over its units, and their 95% bootstrap intervals; nothing where there is no unit."""
    if not any(values.values()):
        return {}
    means: dict[str, Any] = {name: mean(per_unit) for name, per_unit in values.items()}
    intervals = {name: list(bootstrap_interval(vector(per_unit), seed=seed)) for name, per_unit in values.items()}
    return means | {"ci95": intervals}


def statistic_scores(statistics: Mapping[str, Statistic]) -> dict[str, Any]:
    """Value of each statistic and its 95% interval."""
    if not statistics:
        return {}
    values: dict[str, Any] = {name: statistic.value for name, statistic in statistics.items()}
    return values | {"ci95": {name: list(percentiles(statistic.samples)) for name, statistic in statistics.items()}}


def merge_scores(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Merge scores with the intervals that each brings."""
    scores = {name: value for part in parts for name, value in part.items() if name != "ci95"}
    intervals = {name: value for part in parts for name, value in part.get("ci95", {}).items()}
    return scores | ({"ci95": intervals} if intervals else {})


def triplet_values(similarities: Floats, pairs: SimilarityPairs, triplets: int) -> PerQuery:
    """Score each triplet on every triplet metric: {metric: {triplet's number: value}}; nothing without triplets."""
    if not triplets:
        return {}
    nearest = np.full(triplets, -np.inf)
    negatives = similarities[pairs.groups["negative"]].astype(np.float64)
    np.maximum.at(nearest, np.array(pairs.triplet_of_negative), negatives)
    positive = similarities[pairs.groups["positive"]].astype(np.float64)
    margins = triplet_margins(positive, [np.array([value]) for value in nearest])
    return {
        metric.name: {str(number): float(value) for number, value in enumerate(metric.function(margins))}
        for metric in registry.TRIPLETS
    }


def pair_cosines(first: Floats, second: Floats, dataset: EvalDataset) -> npt.NDArray[np.float64]:
    """Cosines [N] of the scored pairs, from vectors of length 1 of all texts [T, D]: one text's of each of the two."""
    indices = np.array([pair[:2] for pair in dataset.scored_pairs], np.int64).reshape(-1, 2)
    cosines: npt.NDArray[np.float64] = np.einsum(
        "ij,ij->i", first[indices[:, 0]].astype(np.float64), second[indices[:, 1]].astype(np.float64)
    )
    return cosines


def gold_scores(dataset: EvalDataset) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_] | None]:
    """Gold scores [N] of the scored pairs, and which are right [N] where gold has two values, yes and no."""
    gold = np.array([pair[2] for pair in dataset.scored_pairs], np.float64)
    grades = np.unique(gold)
    return gold, gold == grades[1] if len(grades) == 2 else None


def pair_statistics(cosine: npt.NDArray[np.float64], dataset: EvalDataset, seed: int) -> dict[str, Statistic]:
    """Compute every pair metric; those for yes or no where gold has two values; nothing where nothing varies."""
    gold, right = gold_scores(dataset)
    if not (pair_scores.varies(gold) and pair_scores.varies(cosine)):
        return {}
    functions = {
        metric.name: partial(metric.function, cosine, right if metric.yes_or_no else gold)
        for metric in registry.PAIRS
        if right is not None or not metric.yes_or_no
    }
    return {name: Statistic.of(function, len(gold), seed) for name, function in functions.items()}


def pair_thresholds(cosine: npt.NDArray[np.float64], dataset: EvalDataset) -> dict[str, float]:
    """Thresholds of best F1 and best accuracy, where gold is yes or no."""
    _, right = gold_scores(dataset)
    if right is None:
        return {}
    return pair_scores.f1_at_best_threshold(cosine, right) | pair_scores.accuracy_at_best_threshold(cosine, right)


def duplicate_statistics(
    vectors: Floats, dataset: EvalDataset, seed: int
) -> tuple[dict[str, Statistic], dict[str, float]]:
    """Mine the texts of the scored pairs for duplicates, the right pairs being the known ones; with F1's threshold."""
    _, right = gold_scores(dataset)
    if right is None:
        return {}, {}
    texts = sorted({text for pair in dataset.scored_pairs for text in pair[:2]})[:TEXTS_MINED]
    number_of = {text: number for number, text in enumerate(texts)}
    right_pairs = [pair[:2] for pair, is_right in zip(dataset.scored_pairs, right, strict=True) if is_right]
    known_pairs = [(number_of[a], number_of[b]) for a, b in right_pairs if a in number_of and b in number_of]
    mined = duplicates.mine_pairs(vectors[texts], known_pairs)
    if not len(mined.duplicates):
        return {}, {}
    threshold = pair_scores.f1_at_best_threshold(mined.scores, mined.is_duplicate, len(mined.duplicates))
    width = min(duplicates.MAX_PAIRS, mined.texts * duplicates.NEIGHBOURS)  # of any model, for the same resamples
    statistics = {
        metric.name: Statistic.of(partial(mined.score, metric.function), mined.texts, seed, width)
        for metric in registry.DUPLICATES
    }
    return statistics, {f"duplicate_{name}": value for name, value in threshold.items()}


def cluster_statistics(vectors: Floats, sample: Sample, seed: int) -> dict[str, Statistic]:
    """Score k-means of the sampled documents, as many clusters as categories; nothing without categories.

    A document drawn twice agrees with itself, which makes resampled clusters purer: so the samples are centred.
    """
    indices, labels = sample.groups()
    if not len(indices):
        return {}
    assigned = clustering.assign(vectors[indices], int(labels.max()) + 1)
    return {
        metric.name: Statistic.of(partial(metric.function, assigned, labels), len(indices), seed).centred()
        for metric in registry.CLUSTERING
    }


def unit_table(values: Mapping[str, PerQuery], units: Sequence[str], name: str = "query_id") -> pa.Table:
    """One row a model and unit (query, triplet), one column a metric."""
    parts = [
        pa.table(
            {
                "model": [model] * len(units),
                name: list(units),
                **{metric: [per_unit[unit] for unit in units] for metric, per_unit in metrics.items()},
            }
        )
        for model, metrics in values.items()
        if metrics
    ]
    return pa.concat_tables(parts, promote_options="default")


def vector(values: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """Values in the order of their units."""
    return np.fromiter(values.values(), np.float64)
