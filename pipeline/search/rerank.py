"""The system that ranks what another one found anew, by a cross-encoder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, SerializeAsAny, field_validator

from pipeline.encoder.cross_encoder import CrossEncoderConfig, Reranker
from pipeline.search.exact import Floats, TopK
from pipeline.search.score_mix import ScoreMix
from pipeline.search.system import System


class Rerank(System):
    """The first documents of another system in the order of a cross-encoder's scores; those behind them stay behind."""

    type: Literal["rerank"] = "rerank"
    cross_encoder: CrossEncoderConfig = Field(description="what scores a query and a document")
    of: SerializeAsAny[System] = Field(
        default_factory=ScoreMix, description="whose documents: dense, bm25, mix, rrf, or settings of one of them"
    )
    top: int = Field(100, ge=1, le=100, description="documents that are scored")
    rescores: ClassVar[bool] = True

    @field_validator("of", mode="before")
    @classmethod
    def _first(cls, value: Any) -> Any:
        from pipeline.search.systems import search_system

        return search_system(value)

    @field_validator("of")
    @classmethod
    def _one_stage(cls, value: System) -> System:
        if value.rescores:
            raise ValueError("is what is ranked first; it cannot score documents anew itself")
        return value

    @property
    def needs(self) -> tuple[bool, bool]:
        """Whether an encoder's ranking and BM25's are needed."""
        return self.of.needs

    @property
    def joined(self) -> int:
        """How many documents of each ranking the system that ranks first joins."""
        return self.of.joined

    def depth(self, k: int) -> int:
        """How many documents of each ranking it looks at to rank k."""
        return self.of.depth(max(self.top, k))

    def choices(self) -> Sequence[Self]:
        """One for each choice of the system that ranks first."""
        return [self.model_copy(update={"of": choice}) for choice in self.of.choices()]

    def rank(self, dense: TopK, lexical: TopK, k: int) -> TopK:
        """The ranking that the cross-encoder has yet to see."""
        return self.of.rank(dense, lexical, k)

    def describe(self) -> str:
        """How it ranks."""
        return f"{self.of.describe()}; of these the first {self.top} in the order of {self.cross_encoder.model}"


def rescore(
    reranker: Reranker, queries: Sequence[str], rows: Sequence[Sequence[int]], texts: Mapping[int, str]
) -> list[list[float]]:
    """Scores of the documents of each query, whose texts are given by row; all pairs are batched together."""
    lefts = [query for query, of_query in zip(queries, rows, strict=True) for _ in of_query]
    scores = iter(reranker.score(lefts, [texts[row] for of_query in rows for row in of_query]).tolist())
    return [[next(scores) for _ in of_query] for of_query in rows]


def reorder(best: TopK, scores: Floats) -> TopK:
    """Put the first T documents of each query [Q, k] in the order of new scores [Q, T], ties by lower row.

    Those behind them keep their order, with scores that fall by 1 from the lowest new one. Places without a document
    stay last; their scores do not count.
    """
    count = scores.shape[1]
    ranked = best.rows >= 0
    new = np.where(ranked[:, :count], scores, -np.inf).astype(np.float32)
    order = np.lexsort((best.rows[:, :count], -new), axis=1)
    lowest = np.where(ranked[:, :count], scores, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    behind = lowest - np.arange(1, best.rows.shape[1] - count + 1, dtype=np.float32)
    rows, values = best.rows.copy(), np.full(best.scores.shape, -np.inf, np.float32)
    rows[:, :count] = np.take_along_axis(best.rows[:, :count], order, axis=1)
    values[:, :count] = np.take_along_axis(new, order, axis=1)
    values[:, count:] = np.where(ranked[:, count:], behind, -np.inf)
    return TopK(values, rows)


Texts = Callable[[Sequence[int]], Mapping[int, str]]


def rerank(reranker: Reranker, query: str, best: TopK, top: int, texts: Texts) -> TopK:
    """Rank the first `top` documents of one query [1, k] anew; `texts` gives the texts of rows."""
    rows = [row for row in best.rows[0, :top].tolist() if row >= 0]
    scores = np.full((1, min(top, best.rows.shape[1])), -np.inf, np.float32)
    scores[0, : len(rows)] = rescore(reranker, [query], [rows], texts(rows))[0]
    return reorder(best, scores)
