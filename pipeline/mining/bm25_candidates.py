"""Lexical candidates: BM25 beside the vectors, fused by rank, and as a second opinion on every candidate."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from pipeline.core.config import Config
from pipeline.mining.candidate_arrays import Floats, Rows
from pipeline.mining.exclusions import Block, Positions
from pipeline.search.bm25 import Lexical
from pipeline.storage import shards
from pipeline.storage.files import fetch_folder, filesystem, store_folder


class LexicalCandidates(Config):
    """BM25 over the corpus, whose index is in one process's memory while it is built, and mapped from disk after."""

    fuse: bool = Field(
        True, description="its best documents are candidates too, ranked with the nearest by rank fusion"
    )
    constant: int = Field(60, ge=1, description="of reciprocal rank fusion: a document gets 1 / (constant + rank)")


def build(corpus: Sequence[str], place: str) -> None:
    """Index the texts of the documents that are encoded, in their order, into a folder: whole or not at all."""
    index = Lexical(_texts(corpus))
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        store_folder(folder, f"{place}.partial")
    fs, root = filesystem(place)
    if not fs.exists(root):
        fs.mv(f"{root}.partial", root, recursive=True)


def _texts(corpus: Sequence[str]) -> Iterator[str]:
    """Texts of the encoded documents: those of the corpus without the blank ones, which are the same rows."""
    for table in shards.batches(corpus, ["text"]):
        held = pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(table["text"])), 0), False)
        yield from table["text"].filter(held).to_pylist()


def load(place: str) -> Lexical:
    """Open an index that `build` left."""
    return Lexical.load(place if Path(place).is_dir() else fetch_folder(place))


def search(
    index: Lexical, block: Block, dense: Rows, places: Positions, k: int, config: LexicalCandidates
) -> tuple[Rows, Floats, Floats]:
    """Rows [A, k] of dense [A, k] and lexical candidates in the order of their fusion (-1: none), and BM25 scores.

    The scores are those of the rows [A, k] and of the pairs' positives [P]; every anchor is asked once. Without `fuse`
    the dense rows stay as they are.
    """
    assert block.texts is not None, "words need texts"
    rows, scores = dense.copy(), np.full(dense.shape, np.nan, np.float32)
    positives = np.full(len(places.positives), np.nan, np.float32)
    barred = _grouped(places.barred[0], places.barred[1], len(dense))
    pairs = _grouped(block.pair_anchor, np.arange(len(positives)), len(dense))
    for anchor, text in enumerate(block.texts):
        every = index.scores(text)
        own = pairs[anchor][places.positives[pairs[anchor]] >= 0]
        positives[own] = every[places.positives[own]]
        if config.fuse:
            lexical = _best(every, barred[anchor], k)
            rows[anchor] = fused(dense[anchor], lexical, k, config.constant)
        held = rows[anchor] >= 0
        scores[anchor, held] = every[rows[anchor, held]]
    return rows, scores, positives


def _grouped(owners: Rows, values: Rows, count: int) -> list[Rows]:
    """Values of each owner."""
    order = np.argsort(owners, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(owners, minlength=count))[:-1])


def _best(scores: Floats, barred: Rows, k: int) -> Rows:
    """Rows of the k best scores above 0 that are not barred; equal scores go by lower row."""
    open_ = scores.copy()
    open_[barred] = 0
    matching = np.flatnonzero(open_ > 0)
    if len(matching) > k:
        bar = np.partition(open_[matching], len(matching) - k)[len(matching) - k]
        matching = matching[open_[matching] >= bar]
    return matching[np.lexsort((matching, -open_[matching]))[:k]]


def fused(dense: Rows, lexical: Rows, k: int, constant: int) -> Rows:
    """The k best of two rankings by reciprocal rank fusion (Cormack et al. 2009); ties go by lower row, -1 fills."""
    rows, place = np.unique(np.concatenate([dense[dense >= 0], lexical]), return_inverse=True)
    ranks = np.concatenate([np.arange(1, (dense >= 0).sum() + 1), np.arange(1, len(lexical) + 1)])
    score = np.bincount(place, weights=1.0 / (constant + ranks), minlength=len(rows))
    best = rows[np.lexsort((rows, -score))[:k]]
    return np.concatenate([best, np.full(k - len(best), -1, np.int64)])
