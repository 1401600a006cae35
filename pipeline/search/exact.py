"""Exact nearest neighbours by inner product, tile by tile: memory depends on the tile, not on queries times corpus."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

Keys = npt.NDArray[np.uint64]

QUERY_TILE, CORPUS_TILE = 1024, 4096
_PAIRS = 256  # pairs multiplied exactly at a time: as many as fit the cache of a core
_LARGE = 1e18  # vectors with larger numbers are not multiplied in bfloat16
_NO_KEY = np.uint64(2**64 - 1)


@dataclass
class TopK:
    """The best k rows of each query so far: scores [Q, k], best first, and rows [Q, k]; unfilled are -inf and -1."""

    scores: Floats
    rows: Rows

    @classmethod
    def empty(cls, queries: int, k: int) -> "TopK":
        """Return a result without rows."""
        return cls(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64))

    def merge(self, other: "TopK") -> None:
        """Merge the result of another part of the corpus, in any order; of equal scores the lower row is first."""
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
    excluded: tuple[Rows, Rows] | None = None,
) -> tuple[Floats, Rows]:
    """Find the k rows of largest inner product for queries [Q, D] in corpus blocks [n, D] that follow each other.

    Returns scores [Q, k], best first, and rows [Q, k] counted from `first_row`; of equal scores the lower row is first,
    and where there are fewer than k rows the score is -inf and the row -1. `excluded` are (query, row) pairs that are
    never in the result. A score is the float64 product rounded to float32, so neither the partition into blocks nor the
    arithmetic of a tile decides a tie: a tile's rough product (bfloat16 where the hardware has it, else float32) only
    rules out rows that are too low whatever its rounding error is.

    Raises ValueError on widths that differ and on vectors that are not finite.
    """
    queries = _validate(queries, "queries", None)
    if not k or not len(queries):
        best = TopK.empty(len(queries), k)
        return best.scores, best.rows
    searches = [
        _TopKSearch(_RoundedVectors(queries[at : at + QUERY_TILE]), k) for at in range(0, len(queries), QUERY_TILE)
    ]
    start = first_row
    excluded_queries, excluded_rows = _by_row(excluded)
    for block in _tiles(blocks, queries.shape[1]):
        tile = _RoundedVectors(block)
        here = slice(*np.searchsorted(excluded_rows, [start, start + len(block)]))
        for index, search in enumerate(searches):
            owner = excluded_queries[here] - index * QUERY_TILE
            own = (owner >= 0) & (owner < QUERY_TILE)
            search.add_tile(tile, start - first_row, (owner[own], excluded_rows[here][own] - start))
        start += len(block)
    parts = [search.ranking(first_row) for search in searches]
    return np.concatenate([scores for scores, _ in parts]), np.concatenate([rows for _, rows in parts])


def _by_row(excluded: tuple[Rows, Rows] | None) -> tuple[Rows, Rows]:
    if excluded is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(excluded[1], kind="stable")
    return excluded[0][order], excluded[1][order]


def _tiles(blocks: Iterable[Floats], width: int) -> Iterator[Floats]:
    for vectors in blocks:
        block = _validate(vectors, "a corpus block", width)
        for first in range(0, len(block), CORPUS_TILE):
            yield block[first : first + CORPUS_TILE]


def _validate(vectors: Floats, name: str, width: int | None) -> Floats:
    checked = np.ascontiguousarray(vectors, dtype=np.float32)
    if checked.ndim != 2 or (width is not None and checked.shape[1] != width):
        raise ValueError(f"{name}: shape {checked.shape} does not fit vectors of width {width or 'D'}; expected [n, D]")
    if not np.isfinite(checked).all():
        raise ValueError(f"{name}: holds numbers that are not finite")
    return checked


class _RoundedVectors:
    """Vectors [n, D] with a copy in bfloat16 that is multiplied fast, their lengths and their rounding errors."""

    def __init__(self, vectors: Floats) -> None:
        self.exact, self.rough = vectors, _rounded(vectors)
        self.lengths = np.linalg.norm(vectors, axis=1)
        self.errors = np.zeros(len(vectors), np.float32)
        if self.rough is not None:
            self.errors = np.linalg.norm(vectors - self.rough.float().numpy(), axis=1)

    def times(self, tile: "_RoundedVectors") -> tuple[Any, Floats, float]:
        """Return products [q, n] with a tile, a bound [q] on their error, and the relative error of their rounding.

        |q'd' - qd| <= |q' - q| |d'| + |q| |d' - d|, and accumulation in float32 adds D 2^-24 |q'| |d'| (Higham 2002,
        eq. 3.5), counted twice since fused instructions round in their own ways.
        """
        longest, off = tile.lengths.max(initial=0.0), tile.errors.max(initial=0.0)
        reach = (self.lengths + self.errors) * (longest + off)
        bound = self.errors * (longest + off) + self.lengths * off + tile.exact.shape[1] * 2.0**-23 * reach
        slack: Floats = (1.001 * bound).astype(np.float32)
        if self.rough is None or tile.rough is None:
            return self.exact @ tile.exact.T, slack, 0.0
        return self.rough @ tile.rough.T, slack, 2.0**-8


@cache
def _fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively, and torch is there to make it."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _rounded(vectors: Floats) -> Any:
    """Return vectors in bfloat16, or None where that is not fast or not possible."""
    if not _fast_bfloat16() or np.abs(vectors).max(initial=0.0) > _LARGE:
        return None
    import torch

    return torch.from_numpy(vectors if vectors.flags.writeable else vectors.copy()).bfloat16()


class _TopKSearch:
    """The search for the best k rows of some queries: sorted keys [q, k], ordered by score, then by row."""

    def __init__(self, queries: _RoundedVectors, k: int) -> None:
        count = len(queries.exact)
        self.queries, self.k = queries, k
        self.keys = np.full((count, k), _NO_KEY, np.uint64)
        self.floor = np.full(count, -np.inf, np.float32)  # no row below it is among the best
        self.pending = np.full((count, k), _NO_KEY, np.uint64)
        self.filled = np.zeros(count, np.int64)

    def add_tile(self, tile: _RoundedVectors, start: int, excluded: tuple[Rows, Rows]) -> None:
        """Search a tile [n, D] whose first row is `start`; `excluded` are (query, column) pairs."""
        rough, slack, relative = self.queries.times(tile)
        rough[excluded] = -np.inf
        if np.isinf(self.floor).any():
            self._raise_floor(rough, slack, relative)
        query, column = _at_least(rough, self.floor - slack)
        exact = pairwise_dot(self.queries.exact, tile.exact, query, column)
        passes = (exact >= self.floor[query]) & ~_is_excluded(query, column, excluded, len(tile.exact))
        self._add(query[passes], _keys(exact[passes], start + column[passes]))

    def _raise_floor(self, rough: Any, slack: Floats, relative: float) -> None:
        """Raise the floor to the k-th best product of one tile, less its possible error."""
        if rough.shape[1] <= self.k:
            return
        products = rough if isinstance(rough, np.ndarray) else rough.float().numpy()
        last = np.partition(products, products.shape[1] - self.k, axis=1)[:, products.shape[1] - self.k]
        self.floor = np.maximum(self.floor, last - relative * np.abs(last) - slack)

    def _add(self, query: Rows, keys: Keys) -> None:
        """Collect rows until there are enough of them to sort; queries are in order."""
        counts = np.bincount(query, minlength=len(self.filled))
        if ((self.filled + counts) > self.k).any():
            self._sort()
        if (counts > self.k).any():
            self.pending = np.full((len(counts), int(counts.max())), _NO_KEY, np.uint64)
        slot = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
        self.pending[query, self.filled[query] + slot] = keys
        self.filled += counts
        if self.filled.sum() * 4 >= self.keys.size:
            self._sort()

    def _sort(self) -> None:
        """Sort the collected rows into the best, and raise the floors."""
        width = int(self.filled.max(initial=0))
        if not width:
            return
        keys = np.concatenate([self.keys, self.pending[:, :width]], axis=1)
        keys.sort(axis=1)
        self.keys = np.ascontiguousarray(keys[:, : self.k])
        self.pending, self.filled = np.full((len(keys), self.k), _NO_KEY, np.uint64), np.zeros(len(keys), np.int64)
        self.floor = np.maximum(self.floor, _scores(self.keys[:, -1]))

    def ranking(self, first_row: int) -> tuple[Floats, Rows]:
        """Return scores [q, k] and rows [q, k], best first."""
        self._sort()
        rows = (self.keys & np.uint64(0xFFFFFFFF)).astype(np.int64) + first_row
        return _scores(self.keys), np.where(self.keys == _NO_KEY, -1, rows)


def _at_least(rough: Any, floor: Floats) -> tuple[Rows, Rows]:
    """Return the (query, column) pairs of products [q, n] that reach the floors [q], in row-major order."""
    if isinstance(rough, np.ndarray):
        reached = rough >= floor[:, None]
    else:
        import torch

        # Rounding is monotone: what was at least the floor before it is at least the floor rounded down.
        low = torch.from_numpy(floor).bfloat16()
        low = torch.where(
            low.float() > torch.from_numpy(floor), torch.nextafter(low, torch.full_like(low, -np.inf)), low
        )
        reached = (rough >= low[:, None]).numpy()
    if reached.shape[1] % 8:
        query, column = np.nonzero(reached)
        return query.astype(np.int64), column.astype(np.int64)
    eight = np.flatnonzero(np.ascontiguousarray(reached).view(np.uint64))
    part, bit = np.nonzero(reached.reshape(-1, 8)[eight])
    at = eight[part] * 8 + bit
    return at // reached.shape[1], at % reached.shape[1]


def _is_excluded(query: Rows, column: Rows, excluded: tuple[Rows, Rows], width: int) -> npt.NDArray[np.bool_]:
    """Mask of the (query, column) pairs that are excluded; they come this far only where there is no floor yet."""
    if not len(excluded[0]):
        return np.zeros(len(query), np.bool_)
    mask: npt.NDArray[np.bool_] = np.isin(query * width + column, excluded[0] * width + excluded[1])
    return mask


def _keys(scores: Floats, rows: Rows) -> Keys:
    """Pack scores and rows into keys that sort by falling score, then rising row: the score's bits, then the row."""
    bits = scores.view(np.uint32)
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (~rising).astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64)


def _scores(keys: Keys) -> Floats:
    """Unpack the scores of keys; -inf where there is no row."""
    rising = ~(keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(rising >> 31, rising & np.uint32((1 << 31) - 1), ~rising)
    return np.where(keys == _NO_KEY, np.float32(-np.inf), bits.astype(np.uint32).view(np.float32))


def pairwise_dot(left: Floats, right: Floats, left_rows: Rows, right_rows: Rows) -> Floats:
    """Return the inner products [P] of row pairs of two matrices, computed in float64 and rounded to float32."""
    out = np.empty(len(left_rows), np.float32)
    for first in range(0, len(left_rows), _PAIRS):
        part = slice(first, first + _PAIRS)
        a, b = left[left_rows[part]].astype(np.float64), right[right_rows[part]].astype(np.float64)
        out[part] = np.einsum("ij,ij->i", a, b)
    return out + np.float32(0.0)  # -0 becomes 0, so that the two tie
