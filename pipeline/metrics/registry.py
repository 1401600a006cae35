"""Every metric of an evaluation by its name; a new one is a function in a file of this room and a line here."""

from difflib import get_close_matches

from pipeline.core.errors import UserError
from pipeline.metrics import judged_share, trec_eval
from pipeline.metrics.clustering import V_MEASURE
from pipeline.metrics.metric import MetricSpec, RetrievalMetric
from pipeline.metrics.pair_scores import (
    AVERAGE_PRECISION,
    BEST_ACCURACY,
    BEST_F1,
    DUPLICATE_AP,
    DUPLICATE_F1,
    PEARSON,
    SPEARMAN,
)
from pipeline.metrics.task_metric import TaskMetric
from pipeline.metrics.triplets import MEAN_MARGIN, TRIPLET_ACCURACY

RETRIEVAL: dict[str, RetrievalMetric] = {
    metric.name: metric
    for metric in (
        trec_eval.NDCG,
        trec_eval.RECALL,
        trec_eval.HIT,
        trec_eval.MRR,
        trec_eval.MAP,
        judged_share.JUDGED_SHARE,
    )
}

TRIPLETS: tuple[TaskMetric, ...] = (TRIPLET_ACCURACY, MEAN_MARGIN)
PAIRS: tuple[TaskMetric, ...] = (AVERAGE_PRECISION, BEST_F1, BEST_ACCURACY, SPEARMAN, PEARSON)
DUPLICATES: tuple[TaskMetric, ...] = (DUPLICATE_AP, DUPLICATE_F1)
CLUSTERING: tuple[TaskMetric, ...] = (V_MEASURE,)
TASKS: dict[str, TaskMetric] = {metric.name: metric for metric in (*TRIPLETS, *PAIRS, *DUPLICATES, *CLUSTERING)}


def metric_label(name: str) -> str:
    """Write the name of any metric as papers do: ndcg@10 is nDCG@10, v_measure is V-measure."""
    return TASKS[name].label if name in TASKS else parse_metric(name).label


def higher_is_better(name: str) -> bool:
    """Whether a larger score on any metric is the better one."""
    return TASKS[name].higher_is_better if name in TASKS else parse_metric(name).metric.higher_is_better


def parse_metric(name: str) -> MetricSpec:
    """Read the name of a retrieval metric as a recipe writes it: `ndcg@10`, `map`, `ndcg@10:judged`.

    Raises UserError naming the nearest metric where there is none of this name, and on a cut-off or variant that the
    metric does not have.
    """
    plain, colon, variant = name.partition(":")
    key, at, cutoff = plain.partition("@")
    metric = RETRIEVAL.get(key)
    if metric is None:
        raise UserError(f"unknown metric '{name}'{_nearest(key, at + cutoff)}; {_how_to_write()}")
    if not (cutoff.isdigit() and int(cutoff) > 0) and (at or metric.cutoff == "required"):
        raise UserError(f"unknown metric '{name}'; write it with a cut-off of 1 or more, as in {key}@10")
    if colon and variant not in metric.choices:
        choices = " or ".join(f"{plain}:{choice}" for choice in metric.choices)
        raise UserError(f"unknown metric '{name}'; " + (f"a variant is {choices}" if choices else "it has no variants"))
    return MetricSpec(name, metric, int(cutoff) if cutoff else None, variant)


def _nearest(key: str, cutoff: str) -> str:
    nearest = get_close_matches(key.lower(), RETRIEVAL, n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}{cutoff}'?" if nearest else ""


def _how_to_write() -> str:
    return f"write one of {', '.join(RETRIEVAL)} with a cut-off, as in ndcg@10"
