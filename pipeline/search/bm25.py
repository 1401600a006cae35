"""BM25, the lexical baseline."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import UserError

K1, B = 1.2, 0.75
_WORD = r"(?u)\b\w+\b"


class BM25Index:
    """A BM25 index over documents in corpus order: Lucene's BM25, lower-cased words, no stemming and no stop words.

    The index holds the whole corpus in memory (about 8 bytes a distinct word of a document), unlike everything else
    here; a corpus beyond that goes without (`bm25: false`).
    """

    def __init__(self, texts: Iterable[str]) -> None:
        import bm25s

        tokens = bm25s.tokenize(
            list(texts), token_pattern=_WORD, stopwords=None, stemmer=None, show_progress=False, allow_empty=True
        )
        if not tokens.vocab:
            raise UserError("bm25: no document holds a word; give --no-bm25 or look at the corpus")
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene")
        self._index.index(tokens, show_progress=False)

    @classmethod
    def load(cls, folder: str) -> "BM25Index":
        """Open an index that `save` left; it stays on disk and is mapped."""
        import bm25s

        index = cls.__new__(cls)
        index._index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        return index

    def save(self, folder: str) -> None:
        """Write the index into a folder."""
        self._index.save(folder, show_progress=False)

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """Score a query against every document, [N] in corpus order; 0 where no word is shared."""
        import bm25s

        words = bm25s.tokenize(
            [query], token_pattern=_WORD, stopwords=None, stemmer=None, show_progress=False, return_ids=False
        )[0]
        ids = self._index.get_tokens_ids(words)
        scores: npt.NDArray[np.float32] = self._index.get_scores_from_ids(ids)
        return scores

    def search(
        self, query: str, k: int, *, excluded: npt.NDArray[np.int64] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return scores [n] and rows [n], n <= k, of the best documents that share a word; of equal ones the lower row.

        `excluded` are rows that are never in the result.
        """
        scores = self.scores(query)
        if excluded is not None and len(excluded):
            scores = scores.copy()
            scores[excluded] = 0
        matching = np.flatnonzero(scores > 0)
        if len(matching) > k:
            bar = np.partition(scores[matching], len(matching) - k)[len(matching) - k]
            matching = matching[scores[matching] >= bar]
        order = np.lexsort((matching, -scores[matching]))[:k]
        return scores[matching[order]], matching[order]
