"""Variants of a model: its vectors cut to fewer dimensions or stored in fewer bytes, and ranked as the full ones are.

Documents are what a store would give back, queries keep their floats (asymmetric search). Binary vectors are searched
by Hamming distance and the best of those rescored by the query's own floats (Yamada et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.core.config import Config
from pipeline.search.exact import TopK, pairwise_dot, top_k
from pipeline.storage.vectors import Ranges, VectorFormat, formatted_column, int8_ranges, to_matrix, truncate

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Stored = Literal["float32", "int8", "binary"]

OVERSAMPLING = 4  # times k documents are rescored
_SMALLEST = 32
_BITS = {"float32": 32, "int8": 8, "binary": 1}


class VariantsConfig(Config):
    """Which smaller vectors are evaluated."""

    models: list[str] | None = Field(
        None, description="models whose vectors are made smaller; default the tuned one, else the last"
    )
    dims: list[int] | None = Field(
        None, description="numbers of dimensions, in addition to all of them; default halves, down to 32"
    )
    dtypes: list[Stored] = Field(["float32", "int8", "binary"], min_length=1, description="how a number is stored")


@dataclass(frozen=True)
class Variant:
    """The first `dim` dimensions, stored as `dtype`, as the embedding job stores them."""

    dim: int
    dtype: Stored

    @property
    def bytes(self) -> int:
        """Bytes of one vector."""
        return -(-self.dim * _BITS[self.dtype] // 8)

    def stored_documents(self, vectors: Floats, ranges: Ranges) -> Floats:
        """Vectors [N, dim] as a store gives unit vectors [N, D] back; bits come back as -1 and 1."""
        return to_matrix(formatted_column(vectors, self.vector_format, ranges, scaled=True), ranges)

    def shortened_queries(self, vectors: Floats) -> Floats:
        """Queries [N, D] cut to [N, dim] and scaled to length 1."""
        return truncate(vectors, self.dim, scaled=True).astype(np.float32, copy=False)

    @property
    def vector_format(self) -> VectorFormat:
        """The embedding job's format for it."""
        return VectorFormat(dtype=self.dtype, dim=self.dim)


def plan(config: VariantsConfig, dim: int) -> list[Variant]:
    """List the variants of a model with `dim` dimensions, without the full vector; bits go eight to a byte."""
    halves = [dim >> power for power in range(1, 5) if dim >> power >= _SMALLEST]
    dims = [dim, *sorted({width for width in (halves if config.dims is None else config.dims) if width < dim})[::-1]]
    chosen = [Variant(width, dtype) for dtype in config.dtypes for width in dims]
    storable = [variant for variant in chosen if variant.dtype != "binary" or variant.dim % 8 == 0]
    return [variant for variant in storable if variant != Variant(dim, "float32")]


def calibrate(variants: Sequence[Variant], sample: Floats) -> Ranges:
    """Ranges that int8 needs, from a sample of unit vectors [S, D]."""
    return int8_ranges(sample, [variant.vector_format for variant in variants], scaled=True)


def signs(vectors: Floats) -> Floats:
    """Vectors [N, D] as -1 and 1: inner products of these are D minus twice the Hamming distance."""
    return np.where(vectors > 0, np.float32(1), np.float32(-1))


@dataclass
class VariantRanking:
    """The best rows of each query so far; of binary vectors with the rescored scores [Q, 4k] of those rows."""

    best: TopK
    rescored: Floats | None = None

    def merge(self, other: "VariantRanking") -> None:
        """Merge the ranking of another part of the corpus; the order of parts does not matter."""
        if self.rescored is None or other.rescored is None:
            self.best.merge(other.best)
            return
        scores = np.concatenate([self.best.scores, other.best.scores], axis=1)
        rows = np.concatenate([self.best.rows, other.best.rows], axis=1)
        order = np.lexsort((rows, -scores), axis=1)[:, : self.best.scores.shape[1]]
        self.best = TopK(*(np.take_along_axis(values, order, axis=1) for values in (scores, rows)))
        self.rescored = np.take_along_axis(np.concatenate([self.rescored, other.rescored], axis=1), order, axis=1)

    def top(self, k: int) -> TopK:
        """Return the best k, by their rescored scores where there are any."""
        if self.rescored is None:
            return self.best
        order = np.lexsort((self.best.rows, -self.rescored), axis=1)[:, :k]
        return TopK(np.take_along_axis(self.rescored, order, axis=1), np.take_along_axis(self.best.rows, order, axis=1))


def empty(variant: Variant, queries: int, k: int) -> VariantRanking:
    """Return a ranking without rows."""
    if variant.dtype != "binary":
        return VariantRanking(TopK.empty(queries, k))
    best = TopK.empty(queries, OVERSAMPLING * k)
    return VariantRanking(best, best.scores.copy())


def rank(
    variant: Variant,
    queries: Floats,
    documents: Floats,
    ranges: Ranges,
    k: int,
    first_row: int,
    barred: tuple[Rows, Rows] | None = None,
) -> VariantRanking:
    """Rank documents [n, D] of a chunk for queries [Q, D], both of length 1, but for the barred (query, row) pairs."""
    short_queries, stored = variant.shortened_queries(queries), variant.stored_documents(documents, ranges)
    if variant.dtype != "binary":
        k = min(k, len(stored))
        return VariantRanking(TopK(*top_k(short_queries, [stored], k, first_row=first_row, excluded=barred)))
    k = min(OVERSAMPLING * k, len(stored))
    scores, rows = top_k(signs(short_queries), [stored], k, first_row=first_row, excluded=barred)
    filled = rows >= 0
    query, document = np.nonzero(filled)[0], rows[filled] - first_row
    rescored = np.full(rows.shape, -np.inf, np.float32)
    rescored[filled] = pairwise_dot(short_queries, stored, query, document) / np.float32(np.sqrt(variant.dim))
    return VariantRanking(TopK(scores, rows), rescored)
