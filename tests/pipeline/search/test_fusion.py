"""Rankings joined by scores and by ranks, against the definitions query by query."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.search.exact import TopK
from pipeline.search.fusion import fuse_ranks, min_max, mix_scores

PLACES = 5


def ranking(lists: list[dict[int, float]]) -> TopK:
    """A ranking [Q, 5] from scores by row."""
    best = TopK.empty(len(lists), PLACES)
    for query, scores in enumerate(lists):
        for place, (row, score) in enumerate(sorted(scores.items(), key=lambda item: (-item[1], item[0]))):
            best.rows[query, place], best.scores[query, place] = row, score
    return best


def scaled(scores: dict[int, float]) -> dict[int, float]:
    low, high = min(scores.values(), default=0), max(scores.values(), default=0)
    return {row: (score - low) / (high - low) if high > low else 1.0 for row, score in scores.items()}


def best_of(sums: dict[int, float], k: int) -> list[int]:
    return sorted(sums, key=lambda row: (-round(sums[row], 9), row))[:k]


scores_of_a_query = st.dictionaries(st.integers(0, 8), st.integers(-4, 4).map(float), max_size=PLACES)


@given(
    queries=st.lists(st.tuples(scores_of_a_query, scores_of_a_query), min_size=1, max_size=4),
    weight=st.sampled_from([0.0, 0.25, 1.0, 3.0]),
    k=st.integers(1, 12),
)
@settings(deadline=None)
def test_mixed_scores_are_their_definition(queries, weight, k):
    dense, lexical = (ranking([pair[side] for pair in queries]) for side in (0, 1))
    mixed = mix_scores(dense, lexical, weight, k)
    for query, (left, right) in enumerate(queries):
        left, right = scaled(left), scaled(right)
        sums = {row: left.get(row, 0.0) + weight * right.get(row, 0.0) for row in {*left, *right}}
        found = [row for row in mixed.rows[query].tolist() if row >= 0]
        assert found == best_of(sums, k)
        np.testing.assert_allclose(mixed.scores[query, : len(found)], [sums[row] for row in found], rtol=1e-6)
        assert (mixed.scores[query, len(found) :] == -np.inf).all()


@given(queries=st.lists(st.tuples(scores_of_a_query, scores_of_a_query), min_size=1, max_size=4))
@settings(deadline=None)
def test_fused_ranks_are_their_formula(queries):
    dense, lexical = (ranking([pair[side] for pair in queries]) for side in (0, 1))
    fused = fuse_ranks([dense, lexical], 60, 7)
    for query in range(len(queries)):
        sums: dict[int, float] = {}
        for part in (dense, lexical):
            for rank, row in enumerate(part.rows[query][part.rows[query] >= 0].tolist(), 1):
                sums[row] = sums.get(row, 0.0) + 1 / (60 + rank)
        assert [row for row in fused.rows[query].tolist() if row >= 0] == best_of(sums, 7)


def test_scores_that_are_all_equal_count_as_found():
    alone = ranking([{3: 2.5}, {}, {1: 2.0, 4: 2.0}])
    assert min_max(alone)[:, :2].tolist() == [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
