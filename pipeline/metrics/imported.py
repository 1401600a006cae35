"""A user's own retrieval metric, named by its import path: `metrics: [ndcg@10, my_metrics:first_brand@5]`.

The function takes what the built-in metrics take (`pipeline.metrics.metric.MetricFunction`):

    def first_brand(rankings, qrels, k):
        return {query: share_of_brands(rankings.get(query, ())[:k]) for query in qrels}

    first_brand.label = "First brand"          # how the report writes it; default the function's name
    first_brand.higher_is_better = False       # default True
"""

import inspect
import sys

from pydantic_core import PydanticCustomError

from pipeline.core import plugins
from pipeline.core.errors import UserError
from pipeline.metrics.metric import MetricSpec, RetrievalMetric


def imported_metric(path: str) -> RetrievalMetric:
    """Import the metric that "package.module:function" names.

    Raises UserError where there is no such module or function, or where the module cannot be imported.
    """
    try:
        function = plugins.load_object(path, "metric")
    except PydanticCustomError as error:
        raise UserError(f"metric {error}") from error
    if not callable(function):
        raise UserError(f"metric {path}: is no function of (rankings, qrels, k)")
    label = getattr(function, "label", path.rpartition(":")[2].replace("_", " "))
    direction = bool(getattr(function, "higher_is_better", True))
    source = inspect.getsourcefile(sys.modules[path.partition(":")[0]]) or ""
    return RetrievalMetric(
        path, str(label), function, cutoff="optional", higher_is_better=direction, source_file=source
    )


def rehearse(spec: MetricSpec) -> None:
    """Score a query with and one without a ranking, so that a metric that fails does so before hours of work.

    Raises UserError with what the function raised, or where it does not give a finite number for each query.
    """
    qrels = {"query 1": {"document 1": 1, "document 2": 0}, "query 2": {"document 3": 2}}
    try:
        spec.score({"query 1": ["document 2", "document 1"]}, qrels)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"metric '{spec.name}': fails on a query with a ranking of two documents and one without a ranking: "
            f"{type(error).__name__}: {error}"
        ) from error
