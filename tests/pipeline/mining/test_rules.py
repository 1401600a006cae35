"""Selection rules against cases made by hand."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import schema
from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.mining.candidate_arrays import CandidateArrays
from pipeline.mining.config import MineConfig
from pipeline.mining.rules import apply_rule
from pipeline.mining.selection import reason, select_negatives, selected_ids
from pipeline.mining.threshold_rule import Strategy, ThresholdRule, score_ceiling
from pipeline.text.normalize import hash64
from pipeline.text.same_document import join_keys

FREE = {"max_percentage": None}
SCORES = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]], np.float32)
NINE = np.array([0.9], np.float32)


def selected_columns(scores, positive, **rule) -> list[list[int]]:
    cells = CandidateArrays.from_scores(np.asarray(scores, np.float32), np.asarray(positive, np.float32))
    choice = apply_rule(ThresholdRule(**rule), cells)
    return [np.flatnonzero(row).tolist() for row in choice.selected]


@pytest.mark.parametrize(
    ("positive", "percentage", "wanted"),
    [(0.8, 0.95, 0.76), (0.0, 0.95, 0.0), (-0.2, 0.95, -0.21), (-0.2, 1.0, -0.2), (0.5, 0.5, 0.25)],
)
def test_ceiling_lies_below_the_positive_whatever_its_sign(positive: float, percentage: float, wanted: float):
    assert score_ceiling(np.array([positive], np.float32), percentage)[0] == pytest.approx(wanted, abs=1e-7)


def test_top_takes_the_hardest_first_and_no_more_than_asked():
    assert selected_columns(SCORES, NINE, num_negatives=2, **FREE) == [[0, 1]]


def test_percentage_of_the_positive():
    assert selected_columns(SCORES, NINE, num_negatives=5, max_percentage=0.8) == [[2, 3, 4]]  # ceiling 0.72


def test_percentage_of_a_negative_positive_refuses_what_lies_above_it():
    scores = [[0.3, -0.19, -0.2, -0.205, -0.22]]
    assert selected_columns(scores, [-0.2], num_negatives=5, max_percentage=0.95) == [[4]]
    assert selected_columns(scores, [-0.2], num_negatives=5, max_percentage=1.0) == [[2, 3, 4]]


def test_a_candidate_exactly_at_the_ceiling_stays():
    assert selected_columns([[0.5, 0.25]], [0.5], num_negatives=2, max_percentage=0.5) == [[1]]


def test_bounds_and_rank_window():
    assert selected_columns(SCORES, NINE, num_negatives=5, max_score=0.75, min_score=0.55, **FREE) == [[2, 3]]
    assert selected_columns(SCORES, NINE, num_negatives=2, skip_top=3, **FREE) == [[3, 4]]


def test_ties_keep_the_order_of_the_search():
    assert selected_columns([[0.5, 0.5, 0.5]], [0.9], num_negatives=2) == [[0, 1]]


def test_fewer_than_asked_are_kept_as_they_are_and_nothing_fills_up():
    assert selected_columns([[0.5, -np.inf, -np.inf], [-np.inf] * 3], [0.9, 0.9], num_negatives=2) == [[0], []]
    assert selected_columns(np.empty((2, 0)), [0.9, 0.9], num_negatives=2) == [[], []]


def test_a_pair_whose_positive_has_no_score_takes_nothing():
    assert selected_columns(np.repeat(SCORES, 2, 0), [np.nan, 0.9], num_negatives=1, **FREE) == [[], [0]]


def test_refused_candidates_are_counted_by_the_first_condition_that_they_break():
    rule = ThresholdRule(num_negatives=1, max_percentage=0.8, skip_top=1, min_score=0.55)
    assert apply_rule(rule, CandidateArrays.from_scores(SCORES, NINE)).refused == {
        "in_skipped_ranks": 1,
        "near_positive": 1,
        "below_min_score": 1,
    }


def cells_of(scores, positive, pairs=None, docs=None, **more) -> CandidateArrays:
    base = CandidateArrays.from_scores(np.asarray(scores, np.float32), np.asarray(positive, np.float32))
    keys = {}
    if pairs is not None:
        keys = {
            "pair_keys": np.array([hash64(*pair) for pair in pairs], np.uint64),
            "doc_keys": np.array([[hash64(name) for name in row] for row in docs], np.uint64),
        }
    return replace(base, **keys, **{name: np.asarray(value) for name, value in more.items()})


def test_sample_is_deterministic_allowed_and_another_for_another_seed():
    names = [[f"d{number}" for number in range(40)]] * 3
    pairs = [("q1", "p1"), ("q1", "p2"), ("q2", "p1")]
    scores = np.tile(np.linspace(0.9, 0.1, 40, dtype=np.float32), (3, 1))

    def sample(strategy: str, seed: int, rows: slice) -> list[list[int]]:
        cells = cells_of(scores[rows], [0.8] * len(pairs[rows]), pairs[rows], names[rows])
        choice = apply_rule(ThresholdRule(strategy=strategy, num_negatives=5, seed=seed), cells)
        return [np.flatnonzero(row).tolist() for row in choice.selected]

    floor = [column for column, score in enumerate(scores[0]) if score <= 0.76]
    for strategy in ("sampled", "weighted"):
        rows = sample(strategy, 1, slice(0, 3))
        assert rows == [*sample(strategy, 1, slice(0, 2)), *sample(strategy, 1, slice(2, 3))]
        assert rows != sample(strategy, 2, slice(0, 3)) and rows[0] != rows[1]
        assert all(len(row) == 5 and set(row) <= set(floor) for row in rows)


def shares(strategy: str, scores: list[float], count: int) -> np.ndarray:
    docs = [[f"d{number}" for number in range(len(scores))]] * 4000
    cells = cells_of([scores] * 4000, [0.99] * 4000, [(f"q{row}", "p") for row in range(4000)], docs)
    rule = ThresholdRule(strategy=strategy, num_negatives=count, temperature=0.1)
    return apply_rule(rule, cells).selected.mean(axis=0)


def test_sample_is_uniform():
    assert np.abs(shares("sampled", [0.1] * 10, 2) - 0.2).max() < 0.035  # 5 standard deviations


def test_weighted_sample_takes_by_weight():
    weights = np.exp(np.array([0.5, 0.4, 0.3, 0.2]) / 0.1)
    assert np.abs(shares("weighted", [0.5, 0.4, 0.3, 0.2], 1) - weights / weights.sum()).max() < 0.04


def test_sample_of_fewer_than_asked_takes_all_that_is_allowed():
    cells = cells_of([[0.95, 0.5, 0.4]], [0.9], [("q", "p")], [["a", "b", "c"]])
    assert apply_rule(ThresholdRule(strategy="sampled", num_negatives=9), cells).selected.tolist() == [
        [False, True, True]
    ]


def test_margins_windows_and_bounds():
    assert selected_columns(SCORES, NINE, num_negatives=5, absolute_margin=0.15, **FREE) == [[2, 3, 4]]
    assert selected_columns(SCORES, NINE, num_negatives=5, relative_margin=0.2) == [[2, 3, 4]]
    assert selected_columns(SCORES, NINE, num_negatives=2, skip_top=1, last_rank=3, **FREE) == [[1, 2]]
    assert selected_columns([[0.1, -0.2, -0.4]], [-0.1], num_negatives=3, absolute_margin=0.2, **FREE) == [[2]]


def test_reranker_scores_refuse_and_a_candidate_without_one_is_no_negative():
    cells = cells_of([[0.5, 0.4, 0.3, 0.2]], [0.9], cross=np.float32([[0.9, 0.3, np.nan, 0.05]]))
    rule = ThresholdRule(max_cross_score=0.3)
    assert apply_rule(rule, cells).selected.tolist() == [[False, True, False, True]]
    assert apply_rule(rule, cells).refused == {"above_max_cross_score": 1, "no_cross_score": 1}
    reranked = replace(cells, positive_cross=np.float32([0.4]))
    assert apply_rule(ThresholdRule(cross_margin=0.2), reranked).selected.tolist() == [[False, False, False, True]]
    assert not apply_rule(ThresholdRule(cross_margin=0.2), cells).selected.any()


def test_words_refuse_relative_to_the_positive_and_say_nothing_where_it_shares_none():
    lexical = np.float32([[8.0, 7.0, 0.0]] * 2)
    cells = cells_of([[0.5, 0.4, 0.3]] * 2, [0.9, 0.9], lexical=lexical, positive_lexical=np.float32([10.0, 0.0]))
    rule = ThresholdRule(max_lexical_percentage=0.75)
    assert apply_rule(rule, cells).selected.tolist() == [[False, True, True], [True, True, True]]


def test_family_and_likeness_to_the_positive_refuse():
    cells = cells_of(
        [[0.5, 0.4, 0.3, 0.2]],
        [0.9],
        same_category=np.array([[True, False, False, False]]),
        shared_tags=np.int32([[0, 3, 1, 0]]),
        positive_similarity=np.float32([[0.1, 0.1, 0.99, np.nan]]),
    )
    rule = ThresholdRule(other_category=True, max_shared_tags=2, max_positive_similarity=0.95)
    choice = apply_rule(rule, cells)
    assert choice.selected.tolist() == [[False, False, False, True]]
    assert choice.refused == {"like_positive": 1, "same_category": 1, "shared_tags": 1}


def test_at_most_so_many_of_a_cluster_and_those_that_were_refused_do_not_count():
    cells = cells_of([[0.95, 0.5, 0.4, 0.3, 0.2, 0.1]], [0.9], clusters=np.uint64([[7, 7, 8, 7, 0, 0]]))
    assert apply_rule(ThresholdRule(per_cluster=1), cells).selected.tolist() == [[False, True, True, False, True, True]]
    assert apply_rule(ThresholdRule(per_cluster=1, num_negatives=2), cells).selected.sum() == 2
    assert apply_rule(ThresholdRule(per_cluster=1), cells).refused == {"near_positive": 1, "cluster_full": 1}


@given(
    st.integers(0, 2**32),
    st.integers(1, 30),
    st.sampled_from(list(Strategy)),
    st.one_of(st.none(), st.integers(1, 2)),
    st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_no_refused_candidate_is_ever_taken(seed, width, strategy, per_cluster, wanted):
    """Whatever the settings: at most as many as asked, none refused, none missing, and none spared that was allowed."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.normal(size=(7, width)).astype(np.float32), axis=1)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    positive = rng.normal(size=7).astype(np.float32)
    clusters = rng.integers(0, 4, scores.shape).astype(np.uint64)
    names = [[f"d{n}" for n in range(width)]] * 7
    cells = cells_of(scores, positive, [(f"q{n}", "p") for n in range(7)], names, clusters=clusters)
    rule = ThresholdRule(
        num_negatives=wanted, strategy=strategy, per_cluster=per_cluster, max_percentage=0.9, min_score=-1
    )
    selected = apply_rule(rule, cells).selected
    bound = positive - np.abs(positive) * np.float64(1 - 0.9)
    allowed = (scores <= bound[:, None]) & (scores >= -1) & np.isfinite(scores)
    assert not (selected & ~allowed).any() and selected.sum(axis=1).max() <= wanted
    for row, ok, cluster in zip(selected, allowed, clusters, strict=True):
        room = sum(1 for at in np.flatnonzero(ok) if not cluster[at])
        for name in set(cluster[ok].tolist()) - {0}:
            room += min(per_cluster or width, int((ok & (cluster == name)).sum()))
            assert (row & (cluster == name)).sum() <= (per_cluster or width)
        if not per_cluster:
            room = int(ok.sum())
        assert row.sum() == min(wanted, room)


def table(rows) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema.TABLES["candidates"])


def candidate(name: str, score: float, **more) -> dict:
    return {"doc_id": name, "score": score, **more}


CANDIDATES = table(
    [
        {
            "anchor_id": "q",
            "positive_id": "p",
            "positive_score": 0.8,
            "candidates": [candidate("a", 0.9), candidate("b", 0.5)],
        },
        {"anchor_id": "r", "positive_id": "p", "positive_score": None, "candidates": [candidate("a", 0.4, cluster=5)]},
        {"anchor_id": "s", "positive_id": "p", "positive_score": 0.8, "candidates": []},
    ]
)


@pytest.mark.parametrize("cut", [0, 1])
def test_cells_are_the_table(cut: int):
    cells = CandidateArrays.from_table(CANDIDATES.slice(cut), with_keys=True)
    scores = np.float32([[0.9, 0.5], [0.4, -np.inf], [-np.inf, -np.inf]])
    expected = scores[cut:, : 2 - cut]
    np.testing.assert_array_equal(cells.scores, expected)
    np.testing.assert_array_equal(cells.positive, np.float32([0.8, np.nan, 0.8])[cut:])
    assert cells.clusters[1 - cut, 0] == 5 and np.isnan(cells.cross).all() and not cells.same_category.any()
    assert cells.doc_keys[1 - cut, 0] == hash64("a") and cells.pair_keys[-1] == hash64("s", "p")


def pairs_of(candidates: pa.Table) -> pa.Table:
    fixed = {name: "x" for name in ("anchor", "positive", "source", "split", "group_id", "reason")}
    rows = [{**fixed, **row, "relevance": 1.0} for row in candidates.select(["anchor_id", "positive_id"]).to_pylist()]
    return pa.Table.from_pylist(rows, schema=schema.TABLES["pairs"])


def test_negatives_carry_text_rank_in_the_search_score_and_reason():
    assert selected_ids(CANDIDATES, ThresholdRule()).to_pylist() == ["b"]
    texts = pa.table({"doc_id": ["z", "b"], "text": ["no", "of b"]})
    triplets, counts = select_negatives(pairs_of(CANDIDATES), CANDIDATES, ThresholdRule(), texts)
    assert triplets["negatives"].to_pylist() == [
        [{"doc_id": "b", "text": "of b", "score": 0.5, "rank": 2, "reason": "mined: 0.62 of positive"}], [], []
    ]  # fmt: skip
    assert counts == {
        "negatives_per_row": {1: 1, 0: 2},
        "refused": {"no_positive_score": 1, "near_positive": 1},
        "positive_not_in_corpus": 1,
    }


def test_reason_for_a_positive_below_zero():
    assert reason(-0.31, -0.02) == "mined: -0.31, positive -0.02"


def test_matches_joins_every_owner_with_every_document_of_its_key():
    owners, keys = np.array([0, 1, 1, 2]), np.array([7, 7, 9, 0], np.uint64)
    owner, row = join_keys(owners, keys, np.array([9, 0, 7, 5, 7], np.uint64))
    assert sorted(zip(owner.tolist(), row.tolist(), strict=True)) == [(0, 2), (0, 4), (1, 0), (1, 2), (1, 4)]


def test_a_window_beyond_the_candidates_is_refused():
    with pytest.raises(UserError, match="top_k 10 is below"):
        validate(MineConfig, {"top_k": 10, "rule": {"skip_top": 5, "num_negatives": 8}})
    with pytest.raises(UserError, match=r"rule\.max_percentage"):
        validate(MineConfig, {"rule": {"max_percentage": 1.2}})
    with pytest.raises(UserError, match="last_rank 5 is below"):
        validate(MineConfig, {"rule": {"last_rank": 5, "num_negatives": 8}})


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"max_percentage": 0.9, "relative_margin": 0.1}, "say the same; give one of them"),
        ({"max_cross_score": 0.5}, "name the reranker in cross_encoder.model"),
        ({"max_lexical_percentage": 0.9}, "give `lexical: {}`"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(rule: dict, said: str):
    with pytest.raises(UserError, match=said):
        validate(MineConfig, {"rule": rule})
