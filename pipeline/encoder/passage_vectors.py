"""Vectors of passages, with a share of their document's: the inner product of a query and one is the document's score.

A document's score is to be a weighted mean of the whole text's and of its best passage's, and both are inner products
with the query's vector q: (1 - w) max_p q.p + w q.t = max_p q.((1 - w) p + w t). So a passage is stored as the mean of
its own vector p and the whole text's t, and every search for the largest inner product ranks by both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.encoder.encoder import Encoder
from pipeline.encoder.late_chunking import Window, windows
from pipeline.encoder.passages import PassageCutter, passages
from pipeline.encoder.tokenizer import Ints, Tokens
from pipeline.storage.vectors import comparable

Floats = npt.NDArray[np.float32]
GROUP_CHARACTERS = 1 << 20  # of documents whose passages are in memory at a time, unless one has more


@dataclass(frozen=True)
class CutDocuments:
    """The passages [P] of some documents [N], in order: texts, first characters and documents of each, and token ids.

    `several` [P] says which are of a document that has more than one; the others are a whole text each. `tokens` are
    those of the passages, or with `windows`, for late chunking, those of the windows.
    """

    texts: list[str]
    starts: Ints
    owners: Ints
    several: npt.NDArray[np.bool_]
    tokens: Tokens
    documents: int
    windows: list[Window] | None = None

    @classmethod
    def cut(cls, cutter: PassageCutter, texts: Sequence[str]) -> "CutDocuments":
        """Cut documents and tokenise their passages."""
        spans = cutter.cut(texts)
        of_text = windows(cutter.encoder, texts, spans) if cutter.late else None
        counts = np.array([len(of_text) for of_text in spans], np.int64)
        cut = [passage for text, of_text in zip(texts, spans, strict=True) for passage in passages(text, of_text)]
        return cls(
            cut,
            np.array([start for of_text in spans for start, _ in of_text], np.int64),
            np.repeat(np.arange(len(texts)), counts),
            np.repeat(counts > 1, counts),
            cutter.encoder.tokenize(cut, "document") if of_text is None else [window.tokens for window in of_text],
            len(texts),
            of_text,
        )

    def of(self, documents: npt.NDArray[np.bool_]) -> "CutDocuments":
        """The passages of some documents, by their mask [N]."""
        rows, number = np.flatnonzero(documents[self.owners]), np.cumsum(documents) - 1
        windows = self.windows and [
            replace(window, owner=int(number[window.owner])) for window in self.windows if documents[window.owner]
        ]
        return CutDocuments(
            [self.texts[row] for row in rows],
            self.starts[rows],
            number[self.owners[rows]],
            self.several[rows],
            [self.tokens[row] for row in rows] if windows is None else [window.tokens for window in windows],
            int(documents.sum()),
            windows,
        )

    def vectors(self, encoder: Encoder, text_vectors: Floats | None = None) -> Floats:
        """Vectors [P, D] of the passages, of length 1 for the cosine.

        Where those of the whole texts [N, D] are given, a text that is one passage is not computed again.
        """
        if text_vectors is None:
            return self._computed(encoder)
        passage_vectors: Floats = text_vectors[self.owners]
        several = np.bincount(self.owners, minlength=self.documents) > 1
        passage_vectors[self.several] = self.of(several)._computed(encoder)
        return passage_vectors

    def _computed(self, encoder: Encoder) -> Floats:
        if self.windows is None:
            vectors = encoder.vectors(self.tokens, "document")
        else:
            vectors = encoder.encode_ranges(self.tokens, [window.ranges for window in self.windows])
        return comparable(vectors, encoder.similarity)

    def text_vectors(self, encoder: Encoder, texts: Sequence[str], passage_vectors: Floats) -> Floats:
        """Vectors [N, D] of the whole texts, as far as the encoder reads; those of one passage [P, D] are there."""
        text_vectors: Floats = np.zeros((self.documents, passage_vectors.shape[1]), np.float32)
        text_vectors[self.owners[~self.several]] = passage_vectors[~self.several]
        rows = np.unique(self.owners[self.several])
        text_vectors[rows] = comparable(encoder.encode([texts[row] for row in rows], "document"), encoder.similarity)
        return text_vectors


def mixed(passage_vectors: Floats, text_vectors: Floats, owners: Ints, share: float) -> Floats:
    """Vectors [P, D] of passages with a share of those of their documents [N, D]."""
    if not share:
        return passage_vectors
    vectors: Floats = np.float32(1 - share) * passage_vectors + np.float32(share) * text_vectors[owners]
    return vectors


def groups(texts: Sequence[str], characters: int = GROUP_CHARACTERS) -> Iterator[slice]:
    """Slices of documents that follow each other, with at most so many characters in all or one document."""
    start = size = 0
    for index, text in enumerate(texts):
        if size and size + len(text) > characters:
            yield slice(start, index)
            start = index
            size = 0
        size += len(text)
    if start < len(texts):
        yield slice(start, len(texts))
