"""Significance tests between models, paired by query, triplet or pair, and corrected for their number."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from pipeline.evaluation.scores import Statistic, vector
from pipeline.metrics.metric import PerQuery
from pipeline.metrics.registry import higher_is_better
from pipeline.metrics.significance import (
    bootstrap_interval,
    bootstrap_p,
    detectable_difference,
    holm,
    percentiles,
    permutation_test,
)

Test = dict[str, Any]


def model_pairs(models: Iterable[str], baseline: str, *, all_pairs: bool = False) -> list[tuple[str, str]]:
    """Pairs (model, baseline) to test: every model against the baseline, or each of all pairs once."""
    names = list(models)
    if not all_pairs:
        return [(name, baseline) for name in names if name != baseline and baseline in names]
    ordered = [name for name in names if name == baseline] + [name for name in names if name != baseline]
    return [(model, other) for other, model in combinations(ordered, 2)]


def compare(values: Mapping[str, PerQuery], pairs: Iterable[tuple[str, str]], seed: int) -> list[Test]:
    """Test means over units by permutation, on every metric that both models of a pair have, corrected by Holm."""
    tests = [
        _mean_test(model, other, metric, values[model][metric], values[other][metric], seed)
        for model, other in pairs
        for metric in values.get(model, {})
        if values[model][metric] and metric in values.get(other, {})
    ]
    return add_holm(tests)


def compare_statistics(
    statistics: Mapping[str, Mapping[str, Statistic]], pairs: Iterable[tuple[str, str]]
) -> list[Test]:
    """Test statistics by their paired bootstrap samples, corrected by Holm."""
    tests = []
    for model, other in pairs:
        for metric in statistics.get(model, {}):
            if metric in statistics.get(other, {}):
                tests.append(
                    _statistic_test(model, other, metric, statistics[model][metric], statistics[other][metric])
                )
    return add_holm(tests)


def add_holm(tests: list[Test]) -> list[Test]:
    """Add p-values corrected by Holm's method.

    The tests on one metric are a family; the metrics are views of the same rankings, and the first of them is the one
    to decide by.
    """
    for metric in {test["metric"]: None for test in tests}:
        family = [test for test in tests if test["metric"] == metric]
        for test, p in zip(family, holm([test["p_value"] for test in family]), strict=True):
            test["p_holm"] = p
    return tests


def _mean_test(
    model: str, other: str, metric: str, ours: Mapping[str, float], theirs: Mapping[str, float], seed: int
) -> Test:
    a, b = vector(ours), vector({unit: theirs[unit] for unit in ours})
    better = a > b if higher_is_better(metric) else a < b
    return {
        "model": model,
        "baseline": other,
        "metric": metric,
        "difference": float((a - b).mean()),
        "ci95": list(bootstrap_interval(a - b, seed=seed)),
        "won": int(better.sum()),
        "lost": int((a != b).sum() - better.sum()),
        "p_value": permutation_test(a, b, seed=seed),
        "detectable": detectable_difference(a - b),
    }


def _statistic_test(model: str, other: str, metric: str, ours: Statistic, theirs: Statistic) -> Test:
    differences = ours.samples - theirs.samples
    return {
        "model": model,
        "baseline": other,
        "metric": metric,
        "difference": ours.value - theirs.value,
        "ci95": list(percentiles(differences)),
        "won": None,
        "lost": None,
        "p_value": bootstrap_p(differences),
    }
