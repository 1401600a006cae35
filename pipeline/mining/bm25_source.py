"""BM25 as a source of candidates."""

from collections.abc import Iterator
from typing import Literal

from pipeline.mining.lexical_candidates import LexicalSource, TextScorer
from pipeline.search.bm25 import BM25Config
from pipeline.search.bm25_index import BM25Index


class Bm25(LexicalSource, BM25Config):
    """BM25 over the corpus; its index is written shard by shard, and mapped from disk."""

    type: Literal["bm25"] = "bm25"

    def build(self, texts: Iterator[str], folder: str) -> None:
        """Index texts, in their order, into a local folder."""
        BM25Index.write(texts, folder, self.plain())

    def load(self, folder: str) -> TextScorer:
        """Open what `build` left; it stays on disk and is mapped."""
        return BM25Index.load(folder)
