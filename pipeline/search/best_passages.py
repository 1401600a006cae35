"""Documents ranked by their best passage, exactly: a document's score is the highest of its passages."""

from collections.abc import Callable, Iterable

import numpy as np

from pipeline.core.ranges import expand_ranges
from pipeline.search.exact import Floats, Rows, TopK, pairwise_dot, top_k

Search = Callable[[Rows, int], tuple[Floats, Rows]]  # the nearest passages [q, width] of some queries [q]
FIRST_WIDTH, GROWTH = 2, 4  # passages asked for at first, in multiples of k, and how many times as many after that


def best_passages(search: Search, queries: int, owners: Rows, k: int) -> TopK:
    """Find the best passage of each of the best k documents: scores and passage rows [Q, k], best first.

    `owners` [P] is the document of each passage, rising, and `search` gives the nearest passages, best first and ties
    by row. The first `width` passages of all hold the best passage of each document that they hold, and no other
    document has a better one: where they are of k documents or more, these are the best k. Where not, more are asked
    for, until there are k documents or no passage is left; what an approximate search does not find stays away.
    """
    best = TopK.empty(queries, k)
    waiting, width = np.arange(queries), FIRST_WIDTH * k
    while len(waiting):
        width = min(width, len(owners))
        ranking = first_of_documents(*search(waiting, width), owners, k)
        best.scores[waiting], best.rows[waiting] = ranking.scores, ranking.rows
        waiting = waiting[(ranking.rows < 0).any(axis=1)] if width < len(owners) else waiting[:0]
        width *= GROWTH
    return best


def first_of_documents(scores: Floats, rows: Rows, owners: Rows, k: int) -> TopK:
    """Keep the first passage of each document, up to k a query, of passages [Q, W] that are best first; -1 is none."""
    best = TopK.empty(len(rows), k)
    query, column = np.nonzero(rows >= 0)
    keys = query << 32 | owners[rows[query, column]]
    first = np.sort(np.unique(keys, return_index=True)[1])
    query, column = query[first], column[first]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    best_k = rank < k
    query, column, rank = query[best_k], column[best_k], rank[best_k]
    best.scores[query, rank], best.rows[query, rank] = scores[query, column], rows[query, column]
    return best


def top_documents(
    queries: Floats, passages: Floats, owners: Rows, k: int, excluded: tuple[Rows, Rows] | None = None
) -> TopK:
    """Find the k documents whose best passage has the largest inner product; of equal ones the lower document is first.

    `owners` [P] is the document of each of the passages [P, D], rising; `excluded` are (query, document) pairs that are
    never in the result.
    """
    if not len(owners):
        return TopK.empty(len(queries), k)
    barred = None if excluded is None else passages_of(excluded, owners)

    def search(waiting: Rows, width: int) -> tuple[Floats, Rows]:
        return top_k(queries[waiting], [passages], width, excluded=None if barred is None else _of(barred, waiting))

    best = best_passages(search, len(queries), owners, min(k, len(np.unique(owners))))
    documents = np.where(best.rows < 0, -1, owners[best.rows])
    missing = ((0, 0), (0, k - documents.shape[1]))
    padded_scores: Floats = np.pad(best.scores, missing, constant_values=-np.inf)
    return TopK(padded_scores, np.pad(documents, missing, constant_values=-1))


def passages_of(excluded: tuple[Rows, Rows], owners: Rows) -> tuple[Rows, Rows]:
    """(query, passage) pairs of (query, document) pairs; `owners` [P] is the document of each passage, rising."""
    first, last = (np.searchsorted(owners, excluded[1], side) for side in ("left", "right"))
    counts = last - first
    passage = expand_ranges(first, counts)
    return np.repeat(excluded[0], counts), passage


def _of(excluded: tuple[Rows, Rows], queries: Rows) -> tuple[Rows, Rows]:
    """The excluded pairs of some queries, rising, numbered among these."""
    index = np.searchsorted(queries, excluded[0]).clip(max=len(queries) - 1)
    equal = queries[index] == excluded[0]
    return index[equal], excluded[1][equal]


def top_documents_of(
    queries: Floats, blocks: Iterable[tuple[Floats, Rows]], k: int, excluded: tuple[Rows, Rows] | None = None
) -> TopK:
    """Find the same in blocks of passages and their documents, rising, of which no document is in two blocks."""
    best = TopK.empty(len(queries), k)
    barred = (np.empty(0, np.int64), np.empty(0, np.int64)) if excluded is None else excluded
    order = np.argsort(barred[1], kind="stable")
    query, document = barred[0][order], barred[1][order]
    for passages, owners in blocks:
        part = slice(*np.searchsorted(document, [owners[0], owners[-1] + 1]))
        best.merge(top_documents(queries, passages, owners, k, (query[part], document[part])))
    return best


def score_documents(queries: Floats, blocks: Iterable[tuple[Floats, Rows]], query: Rows, document: Rows) -> Floats:
    """Scores [N] of (query, document) pairs: the largest inner product of the query and a passage; NaN without one.

    Blocks are passages and their documents, rising, of which no document is in two blocks.
    """
    scores = np.full(len(query), np.nan, np.float32)
    order = np.argsort(document, kind="stable")
    rising = document[order]
    for passages, owners in blocks:
        pairs = order[slice(*np.searchsorted(rising, [owners[0], owners[-1] + 1]))]
        pair, passage = passages_of((pairs, document[pairs]), owners)
        if len(pair):
            products = pairwise_dot(queries, passages, query[pair], passage)
            starts = np.flatnonzero(np.diff(pair, prepend=-1))
            scores[pair[starts]] = np.maximum.reduceat(products, starts)
    return scores
