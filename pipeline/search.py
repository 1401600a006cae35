"""Exact nearest neighbours by tiles: memory follows the tile, never queries times corpus."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

QUERY_TILE, CORPUS_TILE = 1024, 4096
_PAIRS = 8192  # pairs whose exact product is taken at once


@dataclass
class Best:
    """The best k rows of each query so far: scores [Q, k] falling, rows [Q, k]; empty places are -inf and -1."""

    scores: Floats
    rows: Rows

    @classmethod
    def empty(cls, queries: int, k: int) -> "Best":
        """No row yet."""
        return cls(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64))

    def merge(self, other: "Best") -> None:
        """Take in another part of the corpus; the order of parts does not matter, equal scores go by lower row."""
        scores = np.concatenate([self.scores, other.scores], axis=1)
        rows = np.concatenate([self.rows, other.rows], axis=1)
        order = np.lexsort((rows, -scores), axis=1)[:, : self.scores.shape[1]]
        self.scores = np.take_along_axis(scores, order, axis=1)
        self.rows = np.take_along_axis(rows, order, axis=1)


def top_k(
    queries: Floats,
    blocks: Iterable[Floats],
    k: int,
    *,
    first_row: int = 0,
    barred: tuple[Rows, Rows] | None = None,
) -> tuple[Floats, Rows]:
    """Find the k rows of largest inner product for queries [Q, D] in corpus blocks [n, D] that follow each other.

    Returns scores [Q, k] falling and rows [Q, k] counted from `first_row`; equal scores go by lower row, missing
    places have score -inf and row -1. A score is the float64 product rounded to float32, so neither the partition
    into blocks nor the arithmetic of a tile decides a tie: a tile's float32 product only rules out rows that its
    rounding error cannot save. `barred` is (query, row) pairs that are never found. Raises ValueError on widths
    that differ and on vectors that are not finite.
    """
    queries = _checked(queries, "queries", None)
    best = Best.empty(len(queries), k)
    if not k or not len(queries):
        return best.scores, best.rows
    start = first_row
    barred_queries, barred_rows = _by_row(barred)
    for tile in _tiles(blocks, queries.shape[1]):
        for first in range(0, len(queries), QUERY_TILE):
            part = slice(first, first + QUERY_TILE)
            near = slice(*np.searchsorted(barred_rows, [start, start + len(tile)]))
            ours = (barred_queries[near] >= first) & (barred_queries[near] < first + QUERY_TILE)
            hole = (barred_queries[near][ours] - first, barred_rows[near][ours] - start)
            _search_tile(queries[part], tile, start, k, best.scores[part], best.rows[part], hole)
        start += len(tile)
    return best.scores, best.rows


def _by_row(barred: tuple[Rows, Rows] | None) -> tuple[Rows, Rows]:
    if barred is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(barred[1], kind="stable")
    return barred[0][order], barred[1][order]


def _tiles(blocks: Iterable[Floats], width: int) -> Iterator[Floats]:
    for given in blocks:
        block = _checked(given, "a corpus block", width)
        for first in range(0, len(block), CORPUS_TILE):
            yield block[first : first + CORPUS_TILE]


def _checked(vectors: Floats, name: str, width: int | None) -> Floats:
    checked = np.ascontiguousarray(vectors, dtype=np.float32)
    if checked.ndim != 2 or (width is not None and checked.shape[1] != width):
        raise ValueError(f"{name}: shape {checked.shape} does not fit vectors of width {width or 'D'}; wanted [n, D]")
    if not np.isfinite(checked).all():
        raise ValueError(f"{name}: holds numbers that are not finite")
    return checked


def _search_tile(
    queries: Floats, tile: Floats, start: int, k: int, scores: Floats, rows: Rows, hole: tuple[Rows, Rows]
) -> None:
    """Bring `scores` and `rows` [q, k] up to date, in place, with one tile [n, D] whose first row is `start`.

    `hole` is the (query, column) pairs of the tile that are barred.
    """
    approximate = queries @ tile.T
    approximate[hole] = -np.inf
    floor = scores[:, -1]
    if len(tile) > k and np.isinf(floor).any():
        floor = np.maximum(floor, np.partition(approximate, len(tile) - k, axis=1)[:, len(tile) - k])
    query, column = np.nonzero((approximate >= (floor - _slack(queries, tile))[:, None]) & (approximate > -np.inf))
    products = dots(queries, tile, query, column)
    kept = products >= scores[query, -1]
    _merge_ragged(scores, rows, query[kept], products[kept], start + column[kept])


def _slack(queries: Floats, tile: Floats) -> Floats:
    """Bound [q] on twice the float32 error of a product: 2 * D * 2^-23 * |q| * max|d| (Higham 2002, eq. 3.5)."""
    longest = np.linalg.norm(tile, axis=1).max(initial=0.0)
    bound: Floats = (2 * queries.shape[1] * 2.0**-23 * longest * np.linalg.norm(queries, axis=1)).astype(np.float32)
    return bound


def dots(left: Floats, right: Floats, left_rows: Rows, right_rows: Rows) -> Floats:
    """Inner products [P] of chosen row pairs, in float64 rounded to float32."""
    out = np.empty(len(left_rows), np.float32)
    for first in range(0, len(left_rows), _PAIRS):
        part = slice(first, first + _PAIRS)
        a, b = left[left_rows[part]].astype(np.float64), right[right_rows[part]].astype(np.float64)
        out[part] = np.einsum("ij,ij->i", a, b)
    return out + np.float32(0.0)  # -0 becomes 0, so that the two tie


def _merge_ragged(scores: Floats, rows: Rows, query: Rows, found: Floats, found_rows: Rows) -> None:
    """Merge found pairs, any number a query, into the best [q, k]: one sort by query, falling score, rising row."""
    k = scores.shape[1]
    touched, local = np.unique(query, return_inverse=True)
    owner = np.concatenate([np.repeat(np.arange(len(touched)), k), local])
    every_score = np.concatenate([scores[touched].ravel(), found])
    every_row = np.concatenate([rows[touched].ravel(), found_rows])
    order = np.lexsort((every_row, -every_score, owner))
    counts = np.bincount(owner, minlength=len(touched))
    first = np.cumsum(counts) - counts
    chosen = order[first[:, None] + np.arange(k)]
    scores[touched], rows[touched] = every_score[chosen], every_row[chosen]


def unit(vectors: Floats) -> Floats:
    """Vectors [N, D] scaled to length 1, so that the inner product is the cosine; zero vectors stay."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scaled: Floats = (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return scaled
