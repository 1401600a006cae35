"""What a retrieval metric is: a function of rankings and judgments, a name, a label, and which direction is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from pipeline.core.errors import UserError

Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> relevance
Rankings = Mapping[str, Sequence[str]]  # query id -> document ids, best first
PerQuery = dict[str, dict[str, float]]  # metric -> query id -> value

CONDENSED = "judged"
VARIANT_LABELS = {CONDENSED: "judged only", "linear": "linear gain"}


class MetricFunction(Protocol):
    """Scores every query of `qrels` from its ranking; `k` is the cut-off of the name, None where it has none.

    A query whose ranking is missing or empty has a value too. Every query of `qrels` has a relevant document.
    """

    def __call__(self, rankings: Rankings, qrels: Qrels, k: int | None) -> Mapping[str, float]:
        """Return one value a query of `qrels`."""
        ...


@dataclass(frozen=True)
class RetrievalMetric:
    """A metric of rankings that a recipe may name, as in `ndcg@10`.

    >>> RetrievalMetric("first", "First", lambda rankings, qrels, k: {q: float(bool(rankings.get(q))) for q in qrels})

    `variants` are functions for other readings of the same metric: `ndcg@10:linear`. A metric that is not `condensable`
    has no variant `:judged`, in which documents without a judgment are dropped from the ranking first. `source_file` is
    the file of a user's own metric, whose content decides the scores.
    """

    name: str
    label: str
    function: MetricFunction
    cutoff: Literal["required", "optional"] = "required"
    higher_is_better: bool = True
    variants: Mapping[str, MetricFunction] = field(default_factory=dict)
    condensable: bool = True
    source_file: str = ""  # of a user's own

    @property
    def choices(self) -> tuple[str, ...]:
        """Names of its variants."""
        return (*self.variants, *((CONDENSED,) if self.condensable else ()))


@dataclass(frozen=True)
class MetricSpec:
    """A metric as a recipe names it: `ndcg@10:judged` is nDCG, its cut-off 10 and its variant `judged`."""

    name: str
    metric: RetrievalMetric
    cutoff: int | None = None
    variant: str = ""

    @property
    def label(self) -> str:
        """The name as papers write it: nDCG@10, judged only."""
        at = "" if self.cutoff is None else f"@{self.cutoff}"
        return f"{self.metric.label}{at}" + (f", {VARIANT_LABELS[self.variant]}" if self.variant else "")

    def score(self, rankings: Rankings, qrels: Qrels) -> dict[str, float]:
        """Score the queries of `qrels`: {query: value}.

        Raises UserError where the function gives no finite number for a query, which one of a user's own may do.
        """
        if self.variant == CONDENSED:
            rankings = {query: [doc for doc in rankings.get(query, ()) if doc in qrels[query]] for query in qrels}
        function = self.metric.variants.get(self.variant, self.metric.function)
        values = function(rankings, qrels, self.cutoff)
        for query in qrels:
            value = values.get(query)
            if not isinstance(value, int | float | np.number) or not np.isfinite(value):
                raise UserError(f"metric '{self.name}': gives {value!r} for query '{query}', not a number")
        return {query: float(values[query]) for query in qrels}
