"""Variants of a model: its vectors cut to fewer dimensions or kept in fewer bytes, ranked beside the whole ones.

Documents are what a store would give back, queries keep their numbers (asymmetric search). Binary vectors are searched
by Hamming distance and the best of those ranked anew by the query's own numbers (Yamada et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.core.config import Config
from pipeline.search.exact import Best, dots, top_k
from pipeline.storage.vectors import Format, Ranges, calibrated, column, matrix, shortened

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Stored = Literal["float32", "int8", "binary"]

RESCORED = 4  # times as many documents as wanted are ranked anew
_SMALLEST = 32
_BITS = {"float32": 32, "int8": 8, "binary": 1}


class VariantsConfig(Config):
    """Which smaller vectors are measured."""

    models: list[str] | None = Field(None, description="models of which; default the tuned one, else the last")
    dims: list[int] | None = Field(None, description="dimensions beside all of them; default halves, down to 32")
    dtypes: list[Stored] = Field(["float32", "int8", "binary"], min_length=1, description="what a number is kept as")


@dataclass(frozen=True)
class Variant:
    """The first `dim` dimensions, kept as `dtype`, as the embedding job does."""

    dim: int
    dtype: Stored

    @property
    def bytes(self) -> int:
        """Bytes of one vector."""
        return -(-self.dim * _BITS[self.dtype] // 8)

    def stored(self, vectors: Floats, ranges: Ranges) -> Floats:
        """What a column of a store gives back of unit vectors [N, D]: [N, dim]; bits come back as -1 and 1."""
        return matrix(column(vectors, self.form, ranges, scaled=True), ranges)

    def asked(self, vectors: Floats) -> Floats:
        """Queries [N, D] as they are ranked with: [N, dim], of length 1."""
        return shortened(vectors, self.dim, scaled=True).astype(np.float32, copy=False)

    @property
    def form(self) -> Format:
        """The column of the embedding job that holds it."""
        return Format(dtype=self.dtype, dim=self.dim)


def plan(config: VariantsConfig, dim: int) -> list[Variant]:
    """List the variants of a model with `dim` dimensions, the whole vector left out; bits go eight a byte."""
    halves = [dim >> power for power in range(1, 5) if dim >> power >= _SMALLEST]
    dims = [dim, *sorted({width for width in (halves if config.dims is None else config.dims) if width < dim})[::-1]]
    chosen = [Variant(width, dtype) for dtype in config.dtypes for width in dims]
    kept = [one for one in chosen if one.dtype != "binary" or one.dim % 8 == 0]
    return [variant for variant in kept if variant != Variant(dim, "float32")]


def calibrate(variants: Sequence[Variant], sample: Floats) -> Ranges:
    """Ranges that int8 needs, from a sample of unit vectors [S, D]."""
    return calibrated(sample, [variant.form for variant in variants], scaled=True)


def signs(vectors: Floats) -> Floats:
    """Vectors [N, D] as -1 and 1: inner products of these are D minus twice the Hamming distance."""
    return np.where(vectors > 0, np.float32(1), np.float32(-1))


@dataclass
class Ranked:
    """The best rows of each query so far; of binary vectors the scores to rank anew by, beside [Q, k]."""

    best: Best
    anew: Floats | None = None

    def merge(self, other: "Ranked") -> None:
        """Take in another part of the corpus; the order of parts does not matter."""
        if self.anew is None or other.anew is None:
            self.best.merge(other.best)
            return
        scores = np.concatenate([self.best.scores, other.best.scores], axis=1)
        rows = np.concatenate([self.best.rows, other.best.rows], axis=1)
        order = np.lexsort((rows, -scores), axis=1)[:, : self.best.scores.shape[1]]
        self.best = Best(*(np.take_along_axis(held, order, axis=1) for held in (scores, rows)))
        self.anew = np.take_along_axis(np.concatenate([self.anew, other.anew], axis=1), order, axis=1)

    def top(self, k: int) -> Best:
        """Return the best k, ranked anew where there are scores for it."""
        if self.anew is None:
            return self.best
        order = np.lexsort((self.best.rows, -self.anew), axis=1)[:, :k]
        return Best(np.take_along_axis(self.anew, order, axis=1), np.take_along_axis(self.best.rows, order, axis=1))


def empty(variant: Variant, queries: int, k: int) -> Ranked:
    """No row yet."""
    if variant.dtype != "binary":
        return Ranked(Best.empty(queries, k))
    best = Best.empty(queries, RESCORED * k)
    return Ranked(best, best.scores.copy())


def rank(variant: Variant, queries: Floats, documents: Floats, ranges: Ranges, k: int, first_row: int) -> Ranked:
    """Rank documents [n, D] of a piece for queries [Q, D], both of length 1."""
    asked, stored = variant.asked(queries), variant.stored(documents, ranges)
    if variant.dtype != "binary":
        return Ranked(Best(*top_k(asked, [stored], min(k, len(stored)), first_row=first_row)))
    scores, rows = top_k(signs(asked), [stored], min(RESCORED * k, len(stored)), first_row=first_row)
    query = np.repeat(np.arange(len(asked)), rows.shape[1])
    anew = dots(asked, stored, query, rows.ravel() - first_row).reshape(rows.shape) / np.float32(np.sqrt(variant.dim))
    return Ranked(Best(scores, rows), anew.astype(np.float32))
