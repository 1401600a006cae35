"""Which candidates become negatives: selection rules as pure functions over arrays [P pairs, K candidates]."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pipeline.core.config import Config
from pipeline.mining.candidate_arrays import Bools, Cells, Floats, Keys, Rows

Doubles = npt.NDArray[np.float64]


class Strategy(StrEnum):
    """How negatives are taken from the candidates that the rule allows."""

    TOP = "top"
    SAMPLED = "sampled"
    WEIGHTED = "weighted"


class Rule(Config):
    """What a negative must be, relative to its pair, and how many are wanted."""

    num_negatives: int = Field(8, ge=1, description="negatives wanted for a pair; fewer are kept as they are")
    max_percentage: float | None = Field(
        0.95, gt=0, le=1, description="refuse scores above this share of the positive's: likely false negatives"
    )
    relative_margin: float | None = Field(
        None, ge=0, lt=1, description="the same, said as a margin: max_percentage = 1 - relative_margin"
    )
    absolute_margin: float | None = Field(None, description="refuse scores above the positive's less this")
    max_score: float | None = Field(None, description="refuse scores above this cosine")
    min_score: float | None = Field(None, description="refuse scores below this cosine: too easy")
    skip_top: int = Field(0, ge=0, description="refuse the first ranks: likely false negatives")
    last_rank: int | None = Field(None, ge=1, description="refuse ranks beyond this one")
    window: Literal["found", "allowed"] = Field(
        "found", description="whose ranks these are: of all that was found, or of what the other conditions leave"
    )
    max_cross_score: float | None = Field(None, description="refuse what the reranker scores above this")
    cross_margin: float | None = Field(None, description="refuse reranker scores above the positive's less this")
    max_lexical_percentage: float | None = Field(
        None, gt=0, description="refuse BM25 scores above this share of the positive's, where it shares a word"
    )
    max_positive_similarity: float | None = Field(
        None, description="refuse documents whose cosine to the positive is above this: they say the same"
    )
    other_category: bool = Field(False, description="refuse documents of the positive's own category")
    max_shared_tags: int | None = Field(
        None, ge=0, description="refuse documents that share more tags with the positive"
    )
    per_cluster: int | None = Field(None, ge=1, description="most negatives of one near-duplicate cluster or one text")
    strategy: Strategy = Field(
        Strategy.TOP, description="hardest first, or a seeded sample of what is allowed, even or weighted by score"
    )
    temperature: float = Field(0.05, gt=0, description="of the weighted sample: weight exp(score / temperature)")
    seed: int = Field(0, description="of the sample")

    @model_validator(mode="before")
    @classmethod
    def _one_percentage(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("relative_margin") is not None:
            if data.get("max_percentage") is not None:
                raise ValueError("max_percentage and relative_margin say the same; give one of them")
            return {**data, "max_percentage": None}
        return data

    @model_validator(mode="after")
    def _window_holds(self) -> "Rule":
        if self.last_rank is not None and self.last_rank < self.skip_top + self.num_negatives:
            raise ValueError(
                f"last_rank {self.last_rank} is below skip_top + num_negatives = {self.skip_top + self.num_negatives}"
            )
        return self

    @property
    def percentage(self) -> float | None:
        """Share of the positive's score that a negative may have."""
        return self.max_percentage if self.relative_margin is None else 1.0 - self.relative_margin

    @property
    def needs_cross(self) -> bool:
        """Whether it looks at reranker scores."""
        return self.max_cross_score is not None or self.cross_margin is not None

    @property
    def needs_lexical(self) -> bool:
        """Whether it looks at BM25 scores."""
        return self.max_lexical_percentage is not None


@dataclass(frozen=True)
class Choice:
    """Which candidates [P, K] were taken, and how many others each condition refused."""

    taken: Bools
    refused: dict[str, int]


def ceiling(positive: Floats, percentage: float) -> Doubles:
    """Highest score that a negative of pairs [P] may have: positive - |positive| * (1 - percentage).

    For a positive score that is the product positive * percentage (NV-Retriever, arXiv 2407.15831). For a negative
    one the product would lie ABOVE the positive; this form stays below it by the same share.
    """
    exact = positive.astype(np.float64)
    return exact - np.abs(exact) * (1.0 - percentage)


def choose(cells: Cells, rule: Rule) -> Choice:
    """Choose negatives among candidates whose order is their rank.

    A pair whose positive has no score takes nothing, for nothing tells its false negatives. A candidate is refused by
    the first condition that it breaks; what is refused is never taken, and nothing fills up.
    """
    allowed, refused = np.isfinite(cells.scores), Counter[str]()
    _refuse(_conditions(cells, rule), allowed, refused)
    if rule.window == "allowed":
        _refuse(_window(np.cumsum(allowed, axis=1), rule), allowed, refused)
    order = _order(cells, rule, allowed)
    wished = allowed if order is None else np.take_along_axis(allowed, order, axis=1)
    if rule.per_cluster is not None:
        clusters = cells.clusters if order is None else np.take_along_axis(cells.clusters, order, axis=1)
        single = at_most(clusters, wished, rule.per_cluster)
        refused["cluster_full"] = int((wished & ~single).sum())
        wished = wished & single
    taken = wished & (np.cumsum(wished, axis=1) <= rule.num_negatives)
    if order is not None:
        back = np.empty_like(taken)
        np.put_along_axis(back, order, taken, axis=1)
        taken = back
    return Choice(taken, {name: count for name, count in refused.items() if count})


def _refuse(conditions: Iterator[tuple[str, Bools]], allowed: Bools, refused: Counter[str]) -> None:
    """Take out of what is allowed, in place, what breaks a condition, and count it under the first that it breaks."""
    for name, broken in conditions:
        refused[name] += int((allowed & broken).sum())
        allowed &= ~broken


def _conditions(cells: Cells, rule: Rule) -> Iterator[tuple[str, Bools]]:
    """Which candidates [P, K] break each condition, in the order in which they are looked at."""
    scores, shape = cells.scores, cells.scores.shape
    rank = np.broadcast_to(np.arange(1, shape[1] + 1), shape)
    yield "no_positive_score", np.broadcast_to(np.isnan(cells.positive)[:, None], shape)
    if rule.window == "found":
        yield from _window(rank, rule)
    if rule.percentage is not None:
        yield "near_positive", scores > ceiling(cells.positive, rule.percentage)[:, None]
    if rule.absolute_margin is not None:
        yield "within_margin", scores > (cells.positive.astype(np.float64) - rule.absolute_margin)[:, None]
    if rule.max_score is not None:
        yield "above_max_score", scores > np.float32(rule.max_score)
    if rule.min_score is not None:
        yield "below_min_score", scores < np.float32(rule.min_score)
    yield from _second_opinions(cells, rule)
    yield from _family(cells, rule)


def _window(rank: Rows, rule: Rule) -> Iterator[tuple[str, Bools]]:
    """Conditions on ranks [P, K] from 1."""
    if rule.skip_top:
        yield "in_skipped_ranks", rank <= rule.skip_top
    if rule.last_rank is not None:
        yield "beyond_last_rank", rank > rule.last_rank


def _second_opinions(cells: Cells, rule: Rule) -> Iterator[tuple[str, Bools]]:
    """Conditions on what others than the searching model say; a candidate that nobody scored is refused."""
    if rule.needs_cross:
        yield "no_cross_score", np.isnan(cells.cross)
    if rule.max_cross_score is not None:
        yield "above_max_cross_score", cells.cross > np.float32(rule.max_cross_score)
    if rule.cross_margin is not None:
        yield "no_cross_score", np.broadcast_to(np.isnan(cells.positive_cross)[:, None], cells.cross.shape)
        bound = cells.positive_cross.astype(np.float64) - rule.cross_margin
        yield "within_cross_margin", cells.cross > bound[:, None]
    if rule.max_lexical_percentage is not None:
        yield "no_lexical_score", np.isnan(cells.lexical)
        bound = cells.positive_lexical.astype(np.float64) * rule.max_lexical_percentage
        yield "lexically_near_positive", cells.lexical > np.where(bound > 0, bound, np.inf)[:, None]


def _family(cells: Cells, rule: Rule) -> Iterator[tuple[str, Bools]]:
    """Conditions on what a candidate has in common with the positive."""
    if rule.max_positive_similarity is not None:
        yield "like_positive", cells.similar > np.float32(rule.max_positive_similarity)
    if rule.other_category:
        yield "same_category", cells.same_category
    if rule.max_shared_tags is not None:
        yield "shared_tags", cells.shared_tags > rule.max_shared_tags


def _order(cells: Cells, rule: Rule, allowed: Bools) -> Rows | None:
    """Columns [P, K] by falling preference; None where they are in it already."""
    if rule.strategy is Strategy.TOP:
        return None
    assert cells.pair_keys is not None and cells.doc_keys is not None, "a sample needs lots"
    draw = lots(rule.seed, cells.pair_keys, cells.doc_keys)
    column = np.broadcast_to(np.arange(allowed.shape[1]), allowed.shape)
    if rule.strategy is Strategy.SAMPLED:
        return np.lexsort((column, draw, ~allowed), axis=1)
    return np.lexsort((column, -_tickets(cells.scores, draw, rule.temperature), ~allowed), axis=1)


def _tickets(scores: Floats, draw: Keys, temperature: float) -> Doubles:
    """Sort keys [P, K] whose largest n are a sample without replacement of weights exp(score / temperature).

    Gumbel top-k (Vieira 2014; Kool et al. 2019, arXiv 1903.06059): log weight plus Gumbel noise, here of the lots.
    """
    uniform = ((draw >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return np.where(np.isfinite(scores), scores, 0.0) / temperature - np.log(-np.log(uniform))


def lots(seed: int, pair_keys: Keys, doc_keys: Keys) -> Keys:
    """Lots [P, K] of pairs [P] and their candidates [P, K]: the same in whatever block (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):
        state = pair_keys[:, None] + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
        for mixed in (doc_keys, np.uint64(0)):
            state = state ^ mixed
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def at_most(clusters: Keys, allowed: Bools, count: int) -> Bools:
    """Which allowed candidates [P, K] are among the first `count` of their cluster in their row; 0 is no cluster."""
    column = np.broadcast_to(np.arange(clusters.shape[1]), clusters.shape)
    order = np.lexsort((column, clusters), axis=1)
    cluster, counted = (np.take_along_axis(array, order, axis=1) for array in (clusters, allowed))
    running: Rows = np.cumsum(counted, axis=1, dtype=np.int64)
    begins = np.ones_like(counted)
    begins[:, 1:] = cluster[:, 1:] != cluster[:, :-1]
    before = np.maximum.accumulate(np.where(begins, running - counted.astype(np.int64), 0), axis=1)
    kept = (running - before <= count) | (cluster == 0)
    back = np.empty_like(kept)
    np.put_along_axis(back, order, kept, axis=1)
    found: Bools = back & allowed
    return found
