"""Every metric of an evaluation by its name; a new one is a function in a file of this room and a line here.

A recipe may name a function of its own by import path as well: `my_metrics:first_brand@5` (see `imported_metric`).
"""

import re
from functools import cache

from pipeline.core.errors import UserError
from pipeline.core.plugins import nearest
from pipeline.metrics import judged_share, trec_eval
from pipeline.metrics.clustering import V_MEASURE
from pipeline.metrics.imported import imported_metric, rehearse
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


@cache
def parse_metric(name: str) -> MetricSpec:
    """Read the name of a retrieval metric from a recipe: `ndcg@10`, `map`, `ndcg@10:judged`, `my_module:my_metric@5`.

    Raises UserError naming the nearest metric where there is none of this name, on a cut-off or variant that the metric
    does not have, and where a function of the user's own cannot be imported or used.
    """
    key, cutoff, variant = _split(name)
    metric = RETRIEVAL.get(key) or (imported_metric(key) if ":" in key else None)
    if metric is None:
        raise UserError(
            f"unknown metric '{name}'{nearest(key.lower(), RETRIEVAL)}; write one of {', '.join(RETRIEVAL)} "
            "with a cut-off, as in ndcg@10, or a function of your own as my_module:my_metric@10"
        )
    if not (cutoff is None and metric.cutoff == "optional") and not ((cutoff or "").isdigit() and int(cutoff or 0) > 0):
        raise UserError(f"unknown metric '{name}'; write it with a cut-off of 1 or more, as in {key}@10")
    if variant is not None and variant not in metric.choices:
        choices = " or ".join(metric.choices) or "none"
        raise UserError(f"unknown metric '{name}'; variants of {key} are {choices}, as in ndcg@10:judged")
    spec = MetricSpec(name, metric, int(cutoff) if cutoff else None, variant or "")
    if key not in RETRIEVAL:
        rehearse(spec)
    return spec


def _split(name: str) -> tuple[str, str | None, str | None]:
    """Take a name apart into the metric or import path, the cut-off and the variant; None stands for none."""
    first = re.split("[:@]", name, maxsplit=1)[0]
    is_path = first not in RETRIEVAL and ":" in name.partition("@")[0]
    match = re.fullmatch((r"([\w.]+:\w+)" if is_path else r"([^@:]*)") + r"(?:@([^:]*))?(?::(.*))?", name)
    return (match[1], match[2], match[3]) if match else (name.replace(":", ""), None, None)
