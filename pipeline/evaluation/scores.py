"""From rankings and similarities to the figures of a report: means and statistics, each with its interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.evaluation import duplicates
from pipeline.evaluation.corpus_sample import Sample
from pipeline.evaluation.dataset import Questions
from pipeline.evaluation.similarity_samples import Probes
from pipeline.metrics import clustering, pair_scores
from pipeline.metrics.retrieval import PerQuery, mean, triplet_margins
from pipeline.metrics.significance import bootstrap_interval, percentiles, resamples

Floats = npt.NDArray[np.float32]
Weighted = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

RESAMPLES, FEWEST, _CELLS = 2000, 500, 10_000_000  # fewer resamples of many units, whose figures vary less
TEXTS_MINED = 20_000


@dataclass(frozen=True)
class Statistic:
    """A figure that is no mean over units: its value, and its bootstrap samples [S]; all models share the resamples."""

    value: float
    samples: npt.NDArray[np.float64]

    @classmethod
    def of(cls, statistic: Weighted, units: int, seed: int, width: int = 0) -> "Statistic":
        """Take a statistic of N units, given as a function of weights [S, N] that makes `width` numbers of a sample."""
        count = max(FEWEST, min(RESAMPLES, _CELLS // max(units, width, 1)))
        samples = [statistic(weights) for weights in resamples(units, count, seed, width)]
        return cls(float(statistic(pair_scores.ones(units))[0]), np.concatenate(samples))

    def centred(self) -> "Statistic":
        """Move the samples to the value: where resampling itself raises it, only their spread says something."""
        return Statistic(self.value, self.samples + (self.value - self.samples.mean()))


def mean_figures(values: PerQuery, seed: int) -> dict[str, Any]:
    """Mean of each metric over its units, and their 95% bootstrap intervals; nothing where there is no unit."""
    if not any(values.values()):
        return {}
    means: dict[str, Any] = {name: mean(found) for name, found in values.items()}
    intervals = {name: list(bootstrap_interval(vector(found), seed=seed)) for name, found in values.items()}
    return means | {"ci95": intervals}


def statistic_figures(statistics: Mapping[str, Statistic]) -> dict[str, Any]:
    """Value of each statistic and its interval."""
    if not statistics:
        return {}
    values: dict[str, Any] = {name: statistic.value for name, statistic in statistics.items()}
    return values | {"ci95": {name: list(percentiles(one.samples)) for name, one in statistics.items()}}


def joined(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Merge figures with the intervals that each brings."""
    figures = {name: value for part in parts for name, value in part.items() if name != "ci95"}
    intervals = {name: value for part in parts for name, value in part.get("ci95", {}).items()}
    return figures | ({"ci95": intervals} if intervals else {})


def triplet_values(similarities: Floats, probes: Probes, triplets: int) -> PerQuery:
    """Of each triplet whether it is told apart, and its margin; nothing where there are no triplets."""
    if not triplets:
        return {}
    nearest = np.full(triplets, -np.inf)
    np.maximum.at(nearest, np.array(probes.owner), similarities[probes.parts["negative"]].astype(np.float64))
    positive = similarities[probes.parts["positive"]].astype(np.float64)
    margins = triplet_margins(positive, [np.array([value]) for value in nearest])
    return {
        "triplet_accuracy": {str(number): float(margin > 0) for number, margin in enumerate(margins)},
        "mean_margin": {str(number): float(margin) for number, margin in enumerate(margins)},
    }


def pair_cosines(left: Floats, right: Floats, questions: Questions) -> npt.NDArray[np.float64]:
    """Cosines [N] of the labelled pairs, from vectors of length 1 of all texts [T, D]."""
    places = np.array([pair[:2] for pair in questions.labelled], np.int64).reshape(-1, 2)
    found: npt.NDArray[np.float64] = np.einsum(
        "ij,ij->i", left[places[:, 0]].astype(np.float64), right[places[:, 1]].astype(np.float64)
    )
    return found


def gold_of(questions: Questions) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_] | None]:
    """Gold scores [N] of the labelled pairs, and which are right [N] where gold is yes or no."""
    gold = np.array([pair[2] for pair in questions.labelled], np.float64)
    grades = np.unique(gold)
    return gold, gold == grades[1] if len(grades) == 2 else None


def pair_statistics(cosine: npt.NDArray[np.float64], questions: Questions, seed: int) -> dict[str, Statistic]:
    """Correlations of cosines with gold scores; average precision, best F1 and accuracy where gold is yes or no."""
    gold, right = gold_of(questions)
    if not (pair_scores.varies(gold) and pair_scores.varies(cosine)):
        return {}
    wanted: dict[str, Weighted] = {
        "spearman": lambda weights: pair_scores.spearman(cosine, gold, weights),
        "pearson": lambda weights: pair_scores.pearson(cosine, gold, weights),
    }
    if right is not None:
        wanted = {
            "average_precision": lambda weights: pair_scores.average_precision(cosine, right, weights),
            "f1": lambda weights: pair_scores.best_f1(cosine, right, weights),
            "accuracy": lambda weights: pair_scores.best_accuracy(cosine, right, weights),
        } | wanted
    return {name: Statistic.of(statistic, len(gold), seed) for name, statistic in wanted.items()}


def pair_cuts(cosine: npt.NDArray[np.float64], questions: Questions) -> dict[str, float]:
    """Thresholds of best F1 and best accuracy, where gold is yes or no."""
    _, right = gold_of(questions)
    if right is None:
        return {}
    return pair_scores.f1_cut(cosine, right) | pair_scores.accuracy_cut(cosine, right)


def duplicate_statistics(
    vectors: Floats, questions: Questions, seed: int
) -> tuple[dict[str, Statistic], dict[str, float]]:
    """Mine all texts of the labelled pairs for duplicates, the right pairs being those known; with the best cut."""
    _, right = gold_of(questions)
    if right is None:
        return {}, {}
    places = sorted({place for left, other, _ in questions.labelled for place in (left, other)})[:TEXTS_MINED]
    number = {place: count for count, place in enumerate(places)}
    pairs = [pair[:2] for pair, is_right in zip(questions.labelled, right, strict=True) if is_right]
    known = [(number[a], number[b]) for a, b in pairs if a in number and b in number]
    mined = duplicates.mine(vectors[places], known)
    if not len(mined.wanted):
        return {}, {}
    statistics: dict[str, Weighted] = {
        "duplicate_average_precision": mined.average_precision,
        "duplicate_f1": mined.best_f1,
    }
    cut = pair_scores.f1_cut(mined.scores, mined.known, len(mined.wanted))
    width = min(duplicates.PAIRS, mined.texts * duplicates.NEIGHBOURS)  # of any model, for the same resamples
    found = {name: Statistic.of(statistic, mined.texts, seed, width) for name, statistic in statistics.items()}
    return found, {f"duplicate_{name}": value for name, value in cut.items()}


def cluster_statistics(vectors: Floats, sample: Sample, seed: int) -> dict[str, Statistic]:
    """V-measure of k-means over the sampled documents, as many clusters as categories; nothing without categories.

    A document drawn twice agrees with itself, which makes resampled clusters purer: so the samples are centred.
    """
    places, labels = sample.groups()
    if not len(places):
        return {}
    assigned = clustering.assign(vectors[places], int(labels.max()) + 1)
    found = Statistic.of(lambda weights: clustering.v_measure(assigned, labels, weights), len(places), seed)
    return {"v_measure": found.centred()}


def unit_table(values: Mapping[str, PerQuery], units: Sequence[str], name: str = "query_id") -> pa.Table:
    """One row a model and unit (query, triplet), one column a metric."""
    parts = [
        pa.table(
            {
                "model": [model] * len(units),
                name: list(units),
                **{metric: [found[unit] for unit in units] for metric, found in metrics.items()},
            }
        )
        for model, metrics in values.items()
        if metrics
    ]
    return pa.concat_tables(parts, promote_options="default")


def vector(values: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """Values in the order of their units."""
    return np.fromiter(values.values(), np.float64)
