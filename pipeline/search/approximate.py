"""Approximate search for mining: what an index finds, scored exactly, and how much of the exact result that is."""

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.search.best_passages import best_passages, score_documents
from pipeline.search.exact import Floats, Rows, TopK, pairwise_dot, top_k
from pipeline.search.index import SearchIndex
from pipeline.storage.vectors import stream_vectors

_OVERSAMPLING = 2  # an index is asked for so many times k, since its own scores are rounded
_QUERIES = 1024  # searched at a time


def approximate(
    index: SearchIndex, anchors: Floats, corpus: Sequence[str], k: int, excluded: tuple[Rows, Rows] | None = None
) -> TopK:
    """Return what the index finds for anchors [A, D], scored exactly and in exact order; row -1 where there is none.

    `corpus` are the vector files that the index was built of. `excluded` are (anchor, row) pairs that must not be in
    the result: the index is asked for as many rows more as an anchor has of them.
    """
    most_excluded = int(np.bincount(excluded[0], minlength=1).max(initial=0)) if excluded is not None else 0
    width = min(_OVERSAMPLING * k + most_excluded, index.size)
    starts = range(0, len(anchors), _QUERIES)
    parts = [index.search(anchors[start : start + _QUERIES], width)[1] for start in starts]
    rows = np.concatenate([np.empty((0, width), np.int64), *parts])
    if excluded is not None and len(excluded[0]):
        rows[_excluded(rows, excluded, index.size)] = -1
    return best_of(rows, _exact_scores(anchors, corpus, rows), k)


def approximate_documents(
    index: SearchIndex,
    anchors: Floats,
    blocks: Iterable[tuple[Floats, Rows]],
    owners: Rows,
    k: int,
    excluded: tuple[Rows, Rows] | None = None,
) -> TopK:
    """Return the documents [A, k] whose passages an index finds, scored exactly by their best passage; -1 for none.

    `owners` [P] is the document of each passage in the index, and `blocks` are passages and documents again, as
    `score_documents` takes them. `excluded` are (anchor, document) pairs.
    """
    most_excluded = int(np.bincount(excluded[0], minlength=1).max(initial=0)) if excluded is not None else 0
    documents = int(owners[-1]) + 1 if len(owners) else 0
    width = min(_OVERSAMPLING * k + most_excluded, documents)
    ranking = best_passages(lambda waiting, size: index.search(anchors[waiting], size), len(anchors), owners, width)
    rows = np.where(ranking.rows < 0, -1, owners[ranking.rows])
    if excluded is not None and len(excluded[0]):
        rows[_excluded(rows, excluded, documents)] = -1
    anchor, column = np.nonzero(rows >= 0)
    scores = np.full(rows.shape, -np.inf, np.float32)
    scores[anchor, column] = score_documents(anchors, blocks, anchor, rows[anchor, column])
    return best_of(rows, scores, k)


def best_of(rows: Rows, scores: Floats, k: int) -> TopK:
    """The k best [A, k] of rows [A, W] by their scores, ties by lower row; row -1 is none."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    best, cells = TopK.empty(len(rows), k), (slice(None), slice(order.shape[1]))
    best.rows[cells] = np.take_along_axis(rows, order, axis=1)
    best.scores[cells] = np.take_along_axis(scores, order, axis=1)
    return best


def _excluded(rows: Rows, excluded: tuple[Rows, Rows], size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Mask [A, W] of the rows [A, W] that are excluded for their anchor; `size` is the number of rows in the index."""
    keys = np.sort(excluded[0] * size + excluded[1])
    found_keys = np.arange(len(rows))[:, None] * size + rows
    index = np.minimum(np.searchsorted(keys, found_keys), len(keys) - 1)
    mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (keys[index] == found_keys) & (rows >= 0)
    return mask


def _exact_scores(anchors: Floats, corpus: Sequence[str], rows: Rows) -> Floats:
    """Exact products [A, W] of anchors [A, D] with the rows [A, W] found for them; -inf where the row is -1."""
    scores = np.full(rows.shape, -np.inf, np.float32)
    flat = rows.ravel()
    order = np.argsort(flat, kind="stable")
    rising = flat[order]
    first = 0
    for block in stream_vectors(corpus):
        cells = order[slice(*np.searchsorted(rising, [first, first + len(block)]))]
        scores.ravel()[cells] = pairwise_dot(anchors, block, cells // rows.shape[1], flat[cells] - first)
        first += len(block)
    return scores


def recall(rows: Rows, exact: Rows) -> tuple[int, int]:
    """Return how many of the exact neighbours [Q, k] are among rows [Q, k'], and how many there are; -1 is none."""
    hits = sum(len(np.intersect1d(row[row >= 0], best[best >= 0])) for row, best in zip(rows, exact, strict=True))
    return hits, int((exact >= 0).sum())


def approximate_recall(
    index: SearchIndex, anchors: Floats, corpus: Sequence[str], k: int, excluded: tuple[Rows, Rows] | None = None
) -> tuple[int, int]:
    """Return how many of the exact k nearest of anchors [A, D] the index finds, and how many there are."""
    exact = top_k(anchors, stream_vectors(corpus), k, excluded=excluded)[1]
    return recall(approximate(index, anchors, corpus, k, excluded).rows, exact)
