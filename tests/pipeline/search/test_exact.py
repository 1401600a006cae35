"""Exact search against brute force: ties, duplicates, any partition."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.search import exact
from pipeline.search.exact import TopK, pairwise_dot, top_k
from pipeline.storage.vectors import l2_normalize


def brute_force(queries, corpus, k):
    scores = (queries.astype(np.float64) @ corpus.astype(np.float64).T).astype(np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    best = np.full((len(queries), k), -np.inf, np.float32)
    for place, row in enumerate(scores):
        order = np.lexsort((np.arange(len(row)), -row))[:k]
        rows[place, : len(order)], best[place, : len(order)] = order, row[order]
    return best, rows


def parts(corpus, cuts):
    bounds = [0, *sorted(cut % (len(corpus) + 1) for cut in cuts), len(corpus)]
    return [corpus[a:b] for a, b in itertools.pairwise(bounds)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 90),
    distinct=st.integers(1, 90),
    k=st.integers(1, 100),
    cuts=st.lists(st.integers(0, 200), max_size=5),
    tile=st.sampled_from([3, 16, 32, 4096]),
    fast=st.booleans(),
)
def test_equal_to_brute_force(seed, rows, distinct, k, cuts, tile, fast):
    rng = np.random.default_rng(seed)
    pool = l2_normalize(rng.normal(size=(distinct, 16)).astype(np.float32))
    corpus = pool[rng.integers(0, distinct, rows)]
    queries = l2_normalize(rng.normal(size=(5, 16)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "CORPUS_TILE", tile)
        patch.setattr(exact, "QUERY_TILE", 3)
        patch.setattr(exact, "_fast_bfloat16", lambda: fast)  # rounded on any processor: the result is the same
        patch.setattr(exact, "_PAIRS", 11)
        scores, found = top_k(queries, parts(corpus, cuts), k)
    wanted_scores, wanted = brute_force(queries, corpus, k)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(scores, wanted_scores)


def test_ties_go_by_lower_row_in_any_partition():
    corpus = np.tile(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), (500, 1))
    queries = np.array([[1.0, 0.0], [0.0, -1.0]], np.float32)
    for cuts in ([], [1, 2, 3], [499], [250, 750]):
        scores, rows = top_k(queries, parts(corpus, cuts), 4)
        assert rows.tolist() == [[0, 2, 4, 6], [0, 2, 4, 6]]
        assert scores.tolist() == [[1.0] * 4, [0.0] * 4]


def test_integers_near_a_tie_keep_their_order():
    rng = np.random.default_rng(0)
    queries = rng.integers(-3, 4, (50, 8)).astype(np.float32)
    corpus = rng.integers(-3, 4, (700, 8)).astype(np.float32)
    np.testing.assert_array_equal(top_k(queries, [corpus], 30)[1], brute_force(queries, corpus, 30)[1])


def test_more_asked_than_there_is():
    scores, rows = top_k(np.ones((2, 3), np.float32), [np.ones((2, 3), np.float32)], 4)
    assert rows.tolist() == [[0, 1, -1, -1]] * 2
    assert np.isneginf(scores[:, 2:]).all()


def test_nothing_asked_and_nothing_there():
    assert top_k(np.ones((0, 3), np.float32), [np.ones((2, 3), np.float32)], 2)[1].shape == (0, 2)
    assert top_k(np.ones((2, 3), np.float32), [], 2)[1].tolist() == [[-1, -1]] * 2
    assert top_k(np.ones((2, 3), np.float32), [np.ones((2, 3), np.float32)], 0)[1].shape == (2, 0)


def test_barred_pairs_are_never_found():
    rng = np.random.default_rng(1)
    queries, corpus = rng.normal(size=(6, 8)).astype(np.float32), rng.normal(size=(40, 8)).astype(np.float32)
    full = brute_force(queries, corpus, 40)[1]
    barred = (np.repeat(np.arange(6), 2), full[:, :2].ravel())
    found = top_k(queries, [corpus[:13], corpus[13:]], 10, excluded=barred)[1]
    np.testing.assert_array_equal(found, full[:, 2:12])


def test_barred_rows_raise_no_floor_and_are_not_found_where_there_is_none():
    """The best rows are barred, more of them than are asked for; and fewer rows than asked, all but one barred."""
    queries, corpus = np.ones((1, 2), np.float32), np.stack([np.arange(30, 0, -1)] * 2, axis=1).astype(np.float32)
    best = (np.zeros(12, np.int64), np.arange(12))
    np.testing.assert_array_equal(top_k(queries, [corpus], 10, excluded=best)[1], [np.arange(12, 22)])
    few = (np.zeros(2, np.int64), np.array([0, 2]))
    np.testing.assert_array_equal(top_k(queries, [corpus[:3]], 5, excluded=few)[1], [[1, -1, -1, -1, -1]])


def test_first_row_shifts_and_partial_results_merge_in_any_order():
    rng = np.random.default_rng(2)
    corpus = l2_normalize(rng.normal(size=(60, 8)).astype(np.float32))[rng.integers(0, 20, 60)]
    queries = l2_normalize(rng.normal(size=(4, 8)).astype(np.float32))
    whole = TopK(*top_k(queries, [corpus], 9))
    for order in ([0, 20, 40], [40, 0, 20]):
        merged = TopK.empty(4, 9)
        for first in order:
            merged.merge(TopK(*top_k(queries, [corpus[first : first + 20]], 9, first_row=first)))
        np.testing.assert_array_equal(merged.rows, whole.rows)
        np.testing.assert_array_equal(merged.scores, whole.scores)


def test_bad_vectors_are_refused():
    good = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="width 3"):
        top_k(good, [np.ones((2, 4), np.float32)], 1)
    with pytest.raises(ValueError, match="not finite"):
        top_k(good, [np.full((2, 3), np.nan, np.float32)], 1)


def test_dots_and_unit():
    left = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    assert l2_normalize(left).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
    found = pairwise_dot(left, left, np.array([0, 0]), np.array([0, 1]))
    assert found.tolist() == [25.0, 0.0]
