"""BM25 as a source of candidates."""

from collections.abc import Iterator
from typing import Literal

from pipeline.mining.lexical_candidates import LexicalSource, TextScorer
from pipeline.search.bm25 import BM25Index


class Bm25(LexicalSource):
    """BM25 over the corpus, whose index is in one process's memory while it is built, and mapped from disk after."""

    type: Literal["bm25"] = "bm25"

    def build(self, texts: Iterator[str], folder: str) -> None:
        """Index texts, in their order, into a local folder."""
        BM25Index(texts).save(folder)

    def load(self, folder: str) -> TextScorer:
        """Open what `build` left; it stays on disk and is mapped."""
        return BM25Index.load(folder)
