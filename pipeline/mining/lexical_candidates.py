"""Candidates by words: a second search beside the vectors, joined with theirs by a system, and scores for rules.

A source is a subclass of `LexicalSource` and one line in registry.py; recipes name it by `lexical: {type: ...}`.
"""

import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc
from pydantic import Field, field_validator

from pipeline.core.config import Plugin
from pipeline.mining.candidate_arrays import Floats, Rows
from pipeline.mining.exclusions import AnchorBlock, CorpusPositions
from pipeline.search.bm25 import best_rows
from pipeline.search.exact import TopK
from pipeline.search.fusion import first
from pipeline.search.score_mix import ScoreMix
from pipeline.search.system import System
from pipeline.search.systems import AnySystem, as_settings
from pipeline.storage import shards
from pipeline.storage.files import download_folder, filesystem, upload_folder


class TextScorer(Protocol):
    """An opened index that scores a text against every document."""

    def scores(self, text: str, /) -> Floats:
        """Scores [N] of the documents in the order in which they were indexed; 0 where nothing matches."""
        ...


class LexicalSource(Plugin):
    """A search by the texts themselves that finds candidates beside those of the vectors."""

    system: AnySystem | None = Field(
        default_factory=ScoreMix,
        description="how its best documents and the nearest become one ranking, of which the first are candidates: "
        "mix (of the weight 0.5), rrf or your own class; null: the nearest alone, with its scores",
    )

    @field_validator("system", mode="before")
    @classmethod
    def _by_name(cls, system: Any) -> Any:
        """Let `rrf` mean `{type: rrf}`."""
        return as_settings(system)

    @field_validator("system")
    @classmethod
    def _one_stage(cls, system: System | None) -> System | None:
        if system is not None and system.rescores:
            raise ValueError("candidates are scored anew by `cross_encoder`; name what ranks them first")
        return system

    def width(self, k: int) -> int:
        """How many of the nearest documents it joins with its own, to rank k of them."""
        return self.system.depth(k) if self.system else k

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
    index: TextScorer, block: AnchorBlock, dense: TopK, positions: CorpusPositions, k: int, source: LexicalSource
) -> tuple[Rows, Floats, Floats]:
    """Rows [A, k] of the candidates under the source's system (-1: none), of the nearest [A, W], and lexical scores.

    The scores are those of the rows [A, k] and of the pairs' positives [P]; every anchor is scored once. Without a
    system the rows are the first k of the nearest.
    """
    assert block.texts is not None, "a lexical search needs texts"
    rows = first(dense, k).rows.copy()
    scores = np.full(rows.shape, np.nan, np.float32)
    positives = np.full(len(positions.positives), np.nan, np.float32)
    excluded = _group(positions.excluded[0], positions.excluded[1], len(rows))
    pairs = _group(block.pair_anchor, np.arange(len(positives)), len(rows))
    for anchor, text in enumerate(block.texts):
        document_scores = index.scores(text)
        with_positive = pairs[anchor][positions.positives[pairs[anchor]] >= 0]
        positives[with_positive] = document_scores[positions.positives[with_positive]]
        if source.system:
            best = best_rows(document_scores, source.width(k), excluded[anchor])
            nearest = TopK(dense.scores[[anchor]], dense.rows[[anchor]])
            rows[anchor] = source.system.rank(nearest, TopK(document_scores[best][None], best[None]), k).rows[0]
        mask = rows[anchor] >= 0
        scores[anchor, mask] = document_scores[rows[anchor, mask]]
    return rows, scores, positives


def _group(owners: Rows, values: Rows, count: int) -> list[Rows]:
    """Values of each of `count` owners."""
    order = np.argsort(owners, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(owners, minlength=count))[:-1])
