"""The system that adds up reciprocal ranks."""

from typing import Literal

from pydantic import Field

from pipeline.search.exact import TopK
from pipeline.search.fusion import fuse_ranks
from pipeline.search.system import System


class ReciprocalRank(System):
    """Reciprocal rank fusion: it looks at places alone, so a weak ranking counts as much as a strong one."""

    type: Literal["rrf"] = "rrf"
    constant: int = Field(60, ge=1, description="a document gets 1 / (constant + rank) from each ranking")

    def rank(self, dense: TopK, lexical: TopK, k: int) -> TopK:
        """The best k by the sum of reciprocal ranks."""
        return fuse_ranks([dense, lexical], self.constant, k)

    def describe(self) -> str:
        """How it ranks."""
        return f"reciprocal ranks added, 1 / ({self.constant} + rank)"
