"""The gate of a release: may a candidate replace what is in use, by the figures of the same queries?

check(Gate(), "ndcg@10", before={"q1": 0.4, ...}, after={"q1": 0.5, ...})
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from pipeline.core.config import Config
from pipeline.metrics.registry import higher_is_better, metric_label
from pipeline.metrics.significance import bootstrap_interval, permutation_test
from pipeline.report.format import decimal, p_equals, signed


class Gate(Config):
    """How much worse a candidate may be than what is in use."""

    metric: str | None = Field(None, description="metric that decides; default: the first of the report")
    max_p: float = Field(0.05, ge=0, le=1, description="a candidate that is worse with a p-value below this is refused")
    max_drop: float = Field(
        0.01,
        ge=0,
        description="and one whose mean is lower by more than this, whatever the p-value: few queries prove little",
    )
    min_common: float = Field(
        0.9, ge=0, le=1, description="share of the queries in use that the candidate must have been measured on too"
    )


@dataclass(frozen=True)
class Verdict:
    """Means of both on the common queries, the difference with its 95% interval, its p-value, and whether it may go."""

    metric: str
    queries: int
    before: float
    after: float
    interval: tuple[float, float]
    p_value: float
    reason: str = ""  # why it is refused; empty where it is not

    @property
    def difference(self) -> float:
        """Mean of the candidate less that of what is in use."""
        return self.after - self.before

    def __str__(self) -> str:
        """One sentence with all figures."""
        low, high = self.interval
        return (
            f"{metric_label(self.metric)} {decimal(self.before)} in use, {decimal(self.after)} now, "
            f"{signed(self.difference)} ({signed(low)} to {signed(high)}), p {p_equals(self.p_value)}, "
            f"{self.queries:,} queries"
        )


def check(gate: Gate, metric: str, before: Mapping[str, float], after: Mapping[str, float]) -> Verdict:
    """Compare two models on the queries that both have, in pairs: a permutation test and a bootstrap interval."""
    queries = sorted(set(before) & set(after))
    if len(queries) < gate.min_common * len(before) or not queries:
        return Verdict(
            metric, len(queries), float("nan"), float("nan"), (float("nan"), float("nan")), 1.0,
            f"only {len(queries):,} of the {len(before):,} queries in use were measured again",
        )  # fmt: skip
    old, new = (np.array([values[query] for query in queries], np.float64) for values in (before, after))
    difference = float((new - old).mean())
    p_value = permutation_test(new, old)
    worse = -difference if higher_is_better(metric) else difference
    reason = ""
    if worse > 0 and p_value < gate.max_p:
        reason = f"it is worse, p {p_equals(p_value)}"
    elif worse > gate.max_drop:
        reason = f"it is worse by more than {decimal(gate.max_drop)}"
    means = float(old.mean()), float(new.mean())
    return Verdict(metric, len(queries), *means, bootstrap_interval(new - old), p_value, reason)
