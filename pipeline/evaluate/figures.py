"""From rankings and similarities to the figures of a report: means, intervals, comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.evaluate.probes import Probes
from pipeline.evaluate.questions import Questions
from pipeline.metrics import PerQuery, mean, spearman, triplet_accuracy, triplet_margins
from pipeline.significance import bootstrap_interval, holm, permutation_test

Floats = npt.NDArray[np.float32]


def retrieval_figures(values: PerQuery, seed: int) -> dict[str, Any]:
    """Mean of each metric over queries, and their 95% bootstrap intervals; nothing where there is no query."""
    if not any(values.values()):
        return {}
    means: dict[str, Any] = {name: mean(found) for name, found in values.items()}
    intervals = {name: list(bootstrap_interval(_vector(found), seed=seed)) for name, found in values.items()}
    return means | {"ci95": intervals}


def triplet_figures(similarities: Floats, probes: Probes, triplets: int) -> dict[str, Any]:
    """Share of triplets told apart and mean margin; nothing where there are no triplets."""
    if not triplets:
        return {}
    nearest = np.full(triplets, -np.inf)
    np.maximum.at(nearest, np.array(probes.owner), similarities[probes.parts["negative"]].astype(np.float64))
    positive = similarities[probes.parts["positive"]].astype(np.float64)
    margins = triplet_margins(positive, [np.array([value]) for value in nearest])
    return {"triplet_accuracy": triplet_accuracy(margins), "mean_margin": float(margins.mean())}


def graded_figures(vectors: Floats, questions: Questions) -> dict[str, Any]:
    """Spearman's correlation of cosines with gold scores, and average precision where gold is yes or no."""
    if not questions.labelled:
        return {}
    left, right, gold = (np.array(column) for column in zip(*questions.labelled, strict=True))
    cosine = np.einsum("ij,ij->i", vectors[left].astype(np.float64), vectors[right].astype(np.float64))
    found: dict[str, Any] = {"spearman": spearman(cosine, gold)}
    grades = np.unique(gold)
    if len(grades) == 2:
        from sklearn.metrics import average_precision_score

        found["average_precision"] = float(average_precision_score(gold == grades[1], cosine))
    return {name: value for name, value in found.items() if value is not None}


def compare(values: Mapping[str, PerQuery], baseline: str, seed: int) -> list[dict[str, Any]]:
    """Test every model against the baseline on every metric, paired by query.

    Holm's correction takes the models that are compared on one metric as a family; the metrics are views of the same
    rankings, and the first of them is the one to decide by.
    """
    tests = [
        _test(model, baseline, metric, values[model][metric], values[baseline][metric], seed)
        for model in values
        if model != baseline
        for metric in values[model]
        if values[model][metric]
    ]
    for metric in {test["metric"]: None for test in tests}:
        family = [test for test in tests if test["metric"] == metric]
        for test, p in zip(family, holm([test["p_value"] for test in family]), strict=True):
            test["p_holm"] = p
    return tests


def _test(
    model: str, baseline: str, metric: str, ours: Mapping[str, float], theirs: Mapping[str, float], seed: int
) -> dict[str, Any]:
    a, b = _vector(ours), np.array([theirs[query] for query in ours], np.float64)
    return {
        "model": model,
        "baseline": baseline,
        "metric": metric,
        "difference": float((a - b).mean()),
        "ci95": list(bootstrap_interval(a - b, seed=seed)),
        "won": int((a > b).sum()),
        "lost": int((a < b).sum()),
        "p_value": permutation_test(a, b, seed=seed),
    }


def per_query_table(values: Mapping[str, PerQuery], query_ids: Sequence[str]) -> pa.Table:
    """One row a model and query, one column a metric."""
    parts = [
        pa.table(
            {
                "model": [model] * len(query_ids),
                "query_id": list(query_ids),
                **{name: [found[query] for query in query_ids] for name, found in metrics.items()},
            }
        )
        for model, metrics in values.items()
    ]
    return pa.concat_tables(parts)


def _vector(values: Mapping[str, float]) -> npt.NDArray[np.float64]:
    return np.fromiter(values.values(), np.float64)
