"""The system that mixes scores."""

from typing import Literal, Self

from pydantic import Field

from pipeline.search.exact import TopK
from pipeline.search.fusion import mix_scores
from pipeline.search.system import System

WEIGHT = 0.5
GRID = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


class ScoreMix(System):
    """Scores of both rankings, scaled to between 0 and 1 query by query, and added."""

    type: Literal["mix"] = "mix"
    weight: float | None = Field(
        None, ge=0, description="of BM25's scores beside the encoder's; default: chosen on `tuning`, else 0.5"
    )

    def choices(self) -> list[Self]:
        """One for each weight of the grid, unless a weight is given; the default first, so that it wins ties."""
        grid = sorted(GRID, key=lambda weight: abs(weight - WEIGHT))
        return [self.model_copy(update={"weight": weight}) for weight in grid] if self.weight is None else []

    def rank(self, dense: TopK, lexical: TopK, k: int) -> TopK:
        """The best k by the sum of scaled scores."""
        return mix_scores(dense, lexical, WEIGHT if self.weight is None else self.weight, k)

    def describe(self) -> str:
        """How it ranks."""
        return f"scores mixed, those of BM25 times {WEIGHT if self.weight is None else self.weight:g}"
