"""Candidates by words: a second search beside the vectors, fused with theirs by rank, and scores that rules can use.

A source is a subclass of `LexicalSource` and one line in registry.py; recipes name it by `lexical: {type: ...}`.
"""

import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from pipeline.core.config import Plugin
from pipeline.mining.candidate_arrays import Floats, Rows
from pipeline.mining.exclusions import AnchorBlock, CorpusPositions
from pipeline.search.bm25 import best_rows
from pipeline.storage import shards
from pipeline.storage.files import download_folder, filesystem, upload_folder


class TextScorer(Protocol):
    """An opened index that scores a text against every document."""

    def scores(self, text: str, /) -> Floats:
        """Scores [N] of the documents in the order in which they were indexed; 0 where nothing matches."""
        ...


class LexicalSource(Plugin):
    """A search by the texts themselves that finds candidates beside those of the vectors."""

    fuse: bool = Field(
        True, description="its best documents are candidates too, ranked with the nearest by rank fusion"
    )
    constant: int = Field(60, ge=1, description="of reciprocal rank fusion: a document gets 1 / (constant + rank)")

    @abstractmethod
    def build(self, texts: Iterator[str], folder: str) -> None:
        """Index texts, in their order, into a local folder that exists and is empty."""

    @abstractmethod
    def load(self, folder: str) -> TextScorer:
        """Open what `build` left in a local folder."""


def build_index(source: LexicalSource, corpus: Sequence[str], path: str) -> None:
    """Index the texts of the encoded documents, in their order, into a folder on any store: whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        source.build(_texts(corpus), folder)
        upload_folder(folder, f"{path}.partial")
    fs, root = filesystem(path)
    if not fs.exists(root):
        fs.mv(f"{root}.partial", root, recursive=True)


def _texts(corpus: Sequence[str]) -> Iterator[str]:
    """Texts of the encoded documents: those of the corpus without the blank ones, which are the same rows."""
    for table in shards.read_batches(corpus, ["text"]):
        mask = pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(table["text"])), 0), False)
        yield from table["text"].filter(mask).to_pylist()


def load_index(source: LexicalSource, path: str) -> TextScorer:
    """Open an index that `build_index` left."""
    return source.load(path if Path(path).is_dir() else download_folder(path))


def search(
    index: TextScorer, block: AnchorBlock, dense: Rows, positions: CorpusPositions, k: int, source: LexicalSource
) -> tuple[Rows, Floats, Floats]:
    """Rows [A, k] of dense [A, k] and lexical candidates in the order of their fusion (-1: none), and their scores.

    The scores are those of the rows [A, k] and of the pairs' positives [P]; every anchor is scored once. Without
    `fuse` the dense rows stay as they are.
    """
    assert block.texts is not None, "a lexical search needs texts"
    rows, scores = dense.copy(), np.full(dense.shape, np.nan, np.float32)
    positives = np.full(len(positions.positives), np.nan, np.float32)
    excluded = _group(positions.excluded[0], positions.excluded[1], len(dense))
    pairs = _group(block.pair_anchor, np.arange(len(positives)), len(dense))
    for anchor, text in enumerate(block.texts):
        document_scores = index.scores(text)
        with_positive = pairs[anchor][positions.positives[pairs[anchor]] >= 0]
        positives[with_positive] = document_scores[positions.positives[with_positive]]
        if source.fuse:
            best = best_rows(document_scores, k, excluded[anchor])
            rows[anchor] = fuse_rankings(dense[anchor], best, k, source.constant)
        mask = rows[anchor] >= 0
        scores[anchor, mask] = document_scores[rows[anchor, mask]]
    return rows, scores, positives


def _group(owners: Rows, values: Rows, count: int) -> list[Rows]:
    """Values of each of `count` owners."""
    order = np.argsort(owners, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(owners, minlength=count))[:-1])


def fuse_rankings(dense: Rows, lexical: Rows, k: int, constant: int) -> Rows:
    """The k best of two rankings by reciprocal rank fusion (Cormack et al. 2009); ties go by lower row, -1 fills."""
    rows, index = np.unique(np.concatenate([dense[dense >= 0], lexical]), return_inverse=True)
    ranks = np.concatenate([np.arange(1, (dense >= 0).sum() + 1), np.arange(1, len(lexical) + 1)])
    scores = np.bincount(index, weights=1.0 / (constant + ranks), minlength=len(rows))
    best = rows[np.lexsort((rows, -scores))[:k]]
    return np.concatenate([best, np.full(k - len(best), -1, np.int64)])
