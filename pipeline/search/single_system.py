"""The systems that are one ranking alone, for searches, where they stand beside those that join two."""

from typing import ClassVar, Literal

from pipeline.search.exact import TopK
from pipeline.search.fusion import first
from pipeline.search.system import System


class Dense(System):
    """The encoder alone."""

    type: Literal["dense"] = "dense"
    lexical: ClassVar[bool] = False

    def rank(self, dense: TopK, lexical: TopK, k: int) -> TopK:
        """The encoder's ranking."""
        return first(dense, k)

    def depth(self, k: int) -> int:
        """As many documents as it ranks."""
        return k

    def describe(self) -> str:
        """How it ranks."""
        return "similarity of the vectors"


class Lexical(System):
    """BM25 alone."""

    type: Literal["bm25"] = "bm25"
    dense: ClassVar[bool] = False

    def rank(self, dense: TopK, lexical: TopK, k: int) -> TopK:
        """BM25's ranking."""
        return first(lexical, k)

    def depth(self, k: int) -> int:
        """As many documents as it ranks."""
        return k

    def describe(self) -> str:
        """How it ranks."""
        return "BM25"
