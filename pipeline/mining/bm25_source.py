"""BM25 as a source of candidates."""

from collections.abc import Iterator
from typing import Literal

from pipeline.mining.lexical_candidates import LexicalSource, TextScorer
from pipeline.search.bm25 import Lexical


class Bm25(LexicalSource):
    """BM25 over the corpus, whose index is in one process's memory while it is built, and mapped from disk after."""

    type: Literal["bm25"] = "bm25"

    def build(self, texts: Iterator[str], folder: str) -> None:
        """Index texts, in their order, into a local folder."""
        Lexical(texts).save(folder)

    def load(self, folder: str) -> TextScorer:
        """Open what `build` left; it stays on disk and is mapped."""
        return Lexical.load(folder)
