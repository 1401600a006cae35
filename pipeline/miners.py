"""Which candidates become negatives: selection rules as pure functions over arrays [P pairs, K candidates]."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.config import Config
from pipeline.text import hash64

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


class Strategy(StrEnum):
    """How negatives are taken from the candidates that the rule allows."""

    TOP = "top"
    SAMPLED = "sampled"


class Rule(Config):
    """What a negative must be, relative to its pair, and how many are wanted."""

    num_negatives: int = Field(8, ge=1, description="negatives wanted for a pair; fewer are kept as they are")
    max_percentage: float | None = Field(
        0.95, gt=0, le=1, description="refuse scores above this share of the positive's: likely false negatives"
    )
    max_score: float | None = Field(None, description="refuse scores above this cosine")
    min_score: float | None = Field(None, description="refuse scores below this cosine: too easy")
    skip_top: int = Field(0, ge=0, description="refuse the first ranks: likely false negatives")
    strategy: Strategy = Field(Strategy.TOP, description="hardest first, or a seeded sample of what is allowed")
    seed: int = Field(0, description="of the sample")


@dataclass(frozen=True)
class Choice:
    """Which candidates [P, K] were taken, and how many others each condition refused."""

    taken: Bools
    refused: dict[str, int]


def ceiling(positive: Floats, percentage: float) -> npt.NDArray[np.float64]:
    """Highest score that a negative of pairs [P] may have: positive - |positive| * (1 - percentage).

    For a positive score that is the product positive * percentage (NV-Retriever, arXiv 2407.15831). For a negative
    one the product would lie ABOVE the positive; this form stays below it by the same share.
    """
    exact = positive.astype(np.float64)
    return exact - np.abs(exact) * (1.0 - percentage)


def choose(scores: Floats, positive: Floats, rule: Rule, draw: Keys | None = None) -> Choice:
    """Choose negatives among candidates of falling scores [P, K] for positives' scores [P].

    A missing candidate has score -inf; a positive whose score is not known is NaN, and its pair takes nothing, for
    nothing tells its false negatives. A candidate is refused by the first condition that it breaks. `draw` [P, K]
    are the lots of the sampled strategy: the lowest win.
    """
    present = np.isfinite(scores)
    allowed, refused = present.copy(), {}
    for name, broken in _conditions(scores, positive, rule):
        refused[name] = int((allowed & broken).sum())
        allowed &= ~broken
    if rule.strategy is Strategy.SAMPLED:
        assert draw is not None, "a sample needs lots"
        order = np.lexsort((np.broadcast_to(np.arange(scores.shape[1]), scores.shape), draw, ~allowed), axis=1)
        place = np.argsort(order, axis=1)
        taken = allowed & (place < rule.num_negatives)
    else:
        taken = allowed & (np.cumsum(allowed, axis=1) <= rule.num_negatives)
    return Choice(taken, {name: count for name, count in refused.items() if count})


def _conditions(scores: Floats, positive: Floats, rule: Rule) -> list[tuple[str, Bools]]:
    exact = scores.astype(np.float64)
    rank = np.broadcast_to(np.arange(1, scores.shape[1] + 1), scores.shape)
    conditions = [
        ("no_positive_score", np.broadcast_to(np.isnan(positive)[:, None], scores.shape)),
        ("in_skipped_ranks", rank <= rule.skip_top),
    ]
    if rule.max_percentage is not None:
        conditions.append(("near_positive", exact > ceiling(positive, rule.max_percentage)[:, None]))
    if rule.max_score is not None:
        conditions.append(("above_max_score", exact > rule.max_score))
    if rule.min_score is not None:
        conditions.append(("below_min_score", exact < rule.min_score))
    return conditions


def lots(seed: int, pairs: Sequence[tuple[str, str]], candidates: Sequence[Sequence[str]], width: int) -> Keys:
    """Lots [P, width] of pairs (anchor id, positive id) and their candidates' ids: the same in whatever block."""
    drawn = np.full((len(pairs), width), np.iinfo(np.uint64).max, np.uint64)
    for row, (pair, names) in enumerate(zip(pairs, candidates, strict=True)):
        drawn[row, : len(names)] = [hash64(seed, *pair, name) for name in names]
    return drawn


def reason(score: float, positive: float) -> str:
    """Why a negative was taken, in words for a reader of the data."""
    if positive > 0:
        return f"mined: {score / positive:.2f} of positive"
    return f"mined: {score:.2f}, positive {positive:.2f}"


def negatives(
    pairs: Sequence[tuple[str, str]],
    candidates: Sequence[Sequence[dict[str, Any]]],
    positive: Floats,
    rule: Rule,
) -> tuple[list[list[dict[str, Any]]], dict[str, int]]:
    """Negatives of each pair (doc_id, score, rank from 1, reason; hardest first) and the counts of what was refused.

    `candidates` are dictionaries (doc_id, score) of falling score, known positives already left out.
    """
    width = max((len(row) for row in candidates), default=0)
    scores = np.full((len(pairs), width), -np.inf, np.float32)
    for place, row in zip(scores, candidates, strict=True):
        place[: len(row)] = [candidate["score"] for candidate in row]
    draw = None
    if rule.strategy is Strategy.SAMPLED:
        draw = lots(rule.seed, pairs, [[candidate["doc_id"] for candidate in row] for row in candidates], width)
    choice = choose(scores, positive, rule, draw)
    chosen = [
        [_negative(row[column], column + 1, float(known)) for column in np.flatnonzero(taken).tolist()]
        for row, taken, known in zip(candidates, choice.taken, positive, strict=True)
    ]
    return chosen, choice.refused


def _negative(candidate: dict[str, Any], rank: int, positive: float) -> dict[str, Any]:
    score = candidate["score"]
    return {"doc_id": candidate["doc_id"], "score": score, "rank": rank, "reason": reason(score, positive)}


def matches(owners: Rows, keys: Keys, documents: Keys) -> tuple[Rows, Rows]:
    """Join owned keys (owners [M], keys [M]) with the keys of documents [N] into (owner, document) rows.

    Key 0 stands for none and matches nothing.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.searchsorted(ordered, documents, "left")
    count = np.searchsorted(ordered, documents, "right") - first
    count[documents == 0] = 0
    hits = np.flatnonzero(count)
    spread = np.repeat(hits, count[hits])
    step = np.arange(len(spread)) - np.repeat(np.cumsum(count[hits]) - count[hits], count[hits])
    return owners[order[first[spread] + step]], spread
