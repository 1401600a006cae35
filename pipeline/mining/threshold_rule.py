"""The rule by thresholds: candidates too near the positive, by any of several measures, are refused."""

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pipeline.mining.candidate_arrays import Bools, CandidateArrays, Floats, Keys, Rows
from pipeline.mining.rules import Selection, SelectionRule

Doubles = npt.NDArray[np.float64]


class Strategy(StrEnum):
    """How negatives are selected from the candidates that the conditions allow."""

    TOP = "top"
    SAMPLED = "sampled"
    WEIGHTED = "weighted"


class ThresholdRule(SelectionRule):
    """Refuse candidates by score, margin, rank, cross-encoder, BM25 or attributes, then take the top or a sample."""

    type: Literal["threshold"] = "threshold"
    max_percentage: float | None = Field(
        0.95, gt=0, le=1, description="refuse scores above this share of the positive's: likely false negatives"
    )
    relative_margin: float | None = Field(
        None, ge=0, lt=1, description="the same as a margin: max_percentage = 1 - relative_margin"
    )
    absolute_margin: float | None = Field(None, description="refuse scores above the positive's less this")
    max_score: float | None = Field(None, description="refuse scores above this cosine")
    min_score: float | None = Field(None, description="refuse scores below this cosine: too easy")
    skip_top: int = Field(0, ge=0, description="refuse the first ranks: likely false negatives")
    last_rank: int | None = Field(None, ge=1, description="refuse ranks beyond this one")
    window: Literal["all", "allowed"] = Field(
        "all", description="what is ranked: all candidates, or those that the other conditions allow"
    )
    max_cross_score: float | None = Field(None, description="refuse what the cross-encoder scores above this")
    cross_margin: float | None = Field(None, description="refuse cross-encoder scores above the positive's less this")
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
    def _window_fits(self) -> "ThresholdRule":
        if self.last_rank is not None and self.last_rank < self.min_candidates:
            raise ValueError(f"last_rank {self.last_rank} is below skip_top + num_negatives = {self.min_candidates}")
        return self

    @property
    def percentage(self) -> float | None:
        """Share of the positive's score that a negative may have."""
        return self.max_percentage if self.relative_margin is None else 1.0 - self.relative_margin

    @property
    def min_candidates(self) -> int:
        """Candidates that a pair must have for `num_negatives` to be possible."""
        return self.skip_top + self.num_negatives

    @property
    def needs_cross(self) -> bool:
        """Whether it reads scores of a cross-encoder."""
        return self.max_cross_score is not None or self.cross_margin is not None

    @property
    def needs_lexical(self) -> bool:
        """Whether it reads BM25 scores."""
        return self.max_lexical_percentage is not None

    @property
    def needs_keys(self) -> bool:
        """Whether it samples."""
        return self.strategy is not Strategy.TOP

    def select(self, candidates: CandidateArrays) -> Selection:
        """Select negatives among candidates [P, K] whose order is their rank.

        A pair whose positive has no score gets none, since nothing would tell its false negatives. A candidate is
        refused by the first condition that it breaks; what is refused is never selected, and nothing fills up.
        """
        allowed, refused = np.isfinite(candidates.scores), Counter[str]()
        _refuse(_conditions(candidates, self), allowed, refused)
        if self.window == "allowed":
            _refuse(_rank_conditions(np.cumsum(allowed, axis=1), self), allowed, refused)
        order = _preference(candidates, self, allowed)
        ordered = allowed if order is None else np.take_along_axis(allowed, order, axis=1)
        if self.per_cluster is not None:
            clusters = candidates.clusters if order is None else np.take_along_axis(candidates.clusters, order, axis=1)
            within = first_of_clusters(clusters, ordered, self.per_cluster)
            refused["cluster_full"] = int((ordered & ~within).sum())
            ordered = within
        selected = ordered & (np.cumsum(ordered, axis=1) <= self.num_negatives)
        if order is not None:
            selected = _reorder(selected, order)
        return Selection(selected, {name: count for name, count in refused.items() if count})


def score_ceiling(positive: Floats, percentage: float) -> Doubles:
    """Highest score that a negative of pairs [P] may have: positive - |positive| * (1 - percentage).

    For a positive score that is the product positive * percentage (NV-Retriever, arXiv 2407.15831). For a negative
    one the product would lie ABOVE the positive; this form stays below it by the same share.
    """
    exact = positive.astype(np.float64)
    return exact - np.abs(exact) * (1.0 - percentage)


def _refuse(conditions: Iterator[tuple[str, Bools]], allowed: Bools, refused: Counter[str]) -> None:
    """Remove from `allowed`, in place, what breaks a condition, and count it under the first that it breaks."""
    for name, broken in conditions:
        refused[name] += int((allowed & broken).sum())
        allowed &= ~broken


def _conditions(candidates: CandidateArrays, rule: ThresholdRule) -> Iterator[tuple[str, Bools]]:
    """Mask [P, K] of the candidates that break each condition, in the order in which they are checked."""
    scores, positive = candidates.scores, candidates.positive
    yield "no_positive_score", np.broadcast_to(np.isnan(positive)[:, None], scores.shape)
    if rule.window == "all":
        yield from _rank_conditions(np.broadcast_to(np.arange(1, scores.shape[1] + 1), scores.shape), rule)
    if rule.percentage is not None:
        yield "near_positive", scores > score_ceiling(positive, rule.percentage)[:, None]
    if rule.absolute_margin is not None:
        yield "within_margin", scores > (positive.astype(np.float64) - rule.absolute_margin)[:, None]
    if rule.max_score is not None:
        yield "above_max_score", scores > np.float32(rule.max_score)
    if rule.min_score is not None:
        yield "below_min_score", scores < np.float32(rule.min_score)
    yield from _cross_conditions(candidates, rule)
    yield from _lexical_conditions(candidates, rule)
    yield from _attribute_conditions(candidates, rule)


def _rank_conditions(rank: Rows, rule: ThresholdRule) -> Iterator[tuple[str, Bools]]:
    """Conditions on ranks [P, K] from 1."""
    if rule.skip_top:
        yield "in_skipped_ranks", rank <= rule.skip_top
    if rule.last_rank is not None:
        yield "beyond_last_rank", rank > rule.last_rank


def _cross_conditions(candidates: CandidateArrays, rule: ThresholdRule) -> Iterator[tuple[str, Bools]]:
    """Conditions on scores of a cross-encoder; a candidate without one is refused."""
    cross, positive_cross = candidates.cross, candidates.positive_cross
    if rule.needs_cross:
        yield "no_cross_score", np.isnan(cross)
    if rule.max_cross_score is not None:
        yield "above_max_cross_score", cross > np.float32(rule.max_cross_score)
    if rule.cross_margin is not None:
        yield "no_cross_score", np.broadcast_to(np.isnan(positive_cross)[:, None], cross.shape)
        yield "within_cross_margin", cross > (positive_cross.astype(np.float64) - rule.cross_margin)[:, None]


def _lexical_conditions(candidates: CandidateArrays, rule: ThresholdRule) -> Iterator[tuple[str, Bools]]:
    """Conditions on BM25 scores; a candidate without one is refused."""
    if rule.max_lexical_percentage is not None:
        yield "no_lexical_score", np.isnan(candidates.lexical)
        limit = candidates.positive_lexical.astype(np.float64) * rule.max_lexical_percentage
        yield "lexically_near_positive", candidates.lexical > np.where(limit > 0, limit, np.inf)[:, None]


def _attribute_conditions(candidates: CandidateArrays, rule: ThresholdRule) -> Iterator[tuple[str, Bools]]:
    """Conditions on what a candidate has in common with the positive."""
    if rule.max_positive_similarity is not None:
        yield "like_positive", candidates.positive_similarity > np.float32(rule.max_positive_similarity)
    if rule.other_category:
        yield "same_category", candidates.same_category
    if rule.max_shared_tags is not None:
        yield "shared_tags", candidates.shared_tags > rule.max_shared_tags


def _preference(candidates: CandidateArrays, rule: ThresholdRule, allowed: Bools) -> Rows | None:
    """Columns [P, K] in falling preference, allowed ones first; None where that is the order of the search."""
    if rule.strategy is Strategy.TOP:
        return None
    assert candidates.pair_keys is not None and candidates.doc_keys is not None, "a sample needs keys"
    random = random_keys(rule.seed, candidates.pair_keys, candidates.doc_keys)
    column = np.broadcast_to(np.arange(allowed.shape[1]), allowed.shape)
    if rule.strategy is Strategy.SAMPLED:
        return np.lexsort((column, random, ~allowed), axis=1)
    return np.lexsort((column, -_gumbel_scores(candidates.scores, random, rule.temperature), ~allowed), axis=1)


def _gumbel_scores(scores: Floats, random: Keys, temperature: float) -> Doubles:
    """Sort keys [P, K] whose largest n are a sample without replacement of weights exp(score / temperature).

    Gumbel top-k (Vieira 2014; Kool et al. 2019, arXiv 1903.06059): log weight plus Gumbel noise, here from hashes.
    """
    uniform = ((random >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return np.where(np.isfinite(scores), scores, 0.0) / temperature - np.log(-np.log(uniform))


def random_keys(seed: int, pair_keys: Keys, doc_keys: Keys) -> Keys:
    """Random numbers [P, K] of pairs [P] and candidates [P, K], the same in any block (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):
        state = pair_keys[:, None] + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
        for mixed in (doc_keys, np.uint64(0)):
            state = state ^ mixed
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def first_of_clusters(clusters: Keys, allowed: Bools, count: int) -> Bools:
    """Mask [P, K] of the allowed candidates that are among the first `count` of their cluster; 0 is no cluster."""
    column = np.broadcast_to(np.arange(clusters.shape[1]), clusters.shape)
    order = np.lexsort((column, clusters), axis=1)
    cluster, counted = (np.take_along_axis(array, order, axis=1) for array in (clusters, allowed))
    running: Rows = np.cumsum(counted, axis=1, dtype=np.int64)
    begins = np.ones_like(counted)
    begins[:, 1:] = cluster[:, 1:] != cluster[:, :-1]
    before = np.maximum.accumulate(np.where(begins, running - counted.astype(np.int64), 0), axis=1)
    return _reorder((running - before <= count) | (cluster == 0), order) & allowed


def _reorder(values: Bools, order: Rows) -> Bools:
    """Values [P, K] back from the columns of an order into their own."""
    restored = np.empty_like(values)
    np.put_along_axis(restored, order, values, axis=1)
    return restored
