"""Selection rules against cases made by hand."""

import numpy as np
import pytest

from pipeline.config import validate
from pipeline.errors import UserError
from pipeline.mine import MineConfig
from pipeline.miners import Rule, ceiling, choose, lots, matches, negatives, reason

FREE = {"max_percentage": None}
SCORES = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]], np.float32)
NINE = np.array([0.9], np.float32)


def taken(scores, positive, draw=None, **rule) -> list[list[int]]:
    choice = choose(np.asarray(scores, np.float32), np.asarray(positive, np.float32), Rule(**rule), draw)
    return [np.flatnonzero(row).tolist() for row in choice.taken]


@pytest.mark.parametrize(
    ("positive", "percentage", "wanted"),
    [(0.8, 0.95, 0.76), (0.0, 0.95, 0.0), (-0.2, 0.95, -0.21), (-0.2, 1.0, -0.2), (0.5, 0.5, 0.25)],
)
def test_ceiling_lies_below_the_positive_whatever_its_sign(positive: float, percentage: float, wanted: float):
    assert ceiling(np.array([positive], np.float32), percentage)[0] == pytest.approx(wanted, abs=1e-7)


def test_top_takes_the_hardest_first_and_no_more_than_asked():
    assert taken(SCORES, NINE, num_negatives=2, **FREE) == [[0, 1]]


def test_percentage_of_the_positive():
    assert taken(SCORES, NINE, num_negatives=5, max_percentage=0.8) == [[2, 3, 4]]  # ceiling 0.72


def test_percentage_of_a_negative_positive_refuses_what_lies_above_it():
    scores = [[0.3, -0.19, -0.2, -0.205, -0.22]]
    assert taken(scores, [-0.2], num_negatives=5, max_percentage=0.95) == [[4]]
    assert taken(scores, [-0.2], num_negatives=5, max_percentage=1.0) == [[2, 3, 4]]


def test_a_candidate_exactly_at_the_ceiling_stays():
    assert taken([[0.5, 0.25]], [0.5], num_negatives=2, max_percentage=0.5) == [[1]]


def test_bounds_and_rank_window():
    assert taken(SCORES, NINE, num_negatives=5, max_score=0.75, min_score=0.55, **FREE) == [[2, 3]]
    assert taken(SCORES, NINE, num_negatives=2, skip_top=3, **FREE) == [[3, 4]]


def test_ties_keep_the_order_of_the_search():
    assert taken([[0.5, 0.5, 0.5]], [0.9], num_negatives=2) == [[0, 1]]


def test_fewer_than_asked_are_kept_as_they_are_and_nothing_fills_up():
    assert taken([[0.5, -np.inf, -np.inf], [-np.inf] * 3], [0.9, 0.9], num_negatives=2) == [[0], []]
    assert taken(np.empty((2, 0)), [0.9, 0.9], num_negatives=2) == [[], []]


def test_a_pair_whose_positive_has_no_score_takes_nothing():
    assert taken(np.repeat(SCORES, 2, 0), [np.nan, 0.9], num_negatives=1, **FREE) == [[], [0]]


def test_refused_candidates_are_counted_by_the_first_condition_that_they_break():
    rule = Rule(num_negatives=1, max_percentage=0.8, skip_top=1, min_score=0.55)
    assert choose(SCORES, NINE, rule).refused == {"in_skipped_ranks": 1, "near_positive": 1, "below_min_score": 1}


def test_sample_is_deterministic_allowed_and_another_for_another_seed():
    names = [[f"d{number}" for number in range(40)]] * 3
    pairs = [("q1", "p1"), ("q1", "p2"), ("q2", "p1")]
    scores = np.tile(np.linspace(0.9, 0.1, 40, dtype=np.float32), (3, 1))

    def sample(seed: int, rows: slice) -> list[list[int]]:
        draw = lots(seed, pairs[rows], names[rows], 40)
        return taken(scores[rows], [0.8] * len(pairs[rows]), draw, strategy="sampled", num_negatives=5)

    whole = sample(1, slice(0, 3))
    assert whole == sample(1, slice(0, 3)) == [*sample(1, slice(0, 2)), *sample(1, slice(2, 3))]
    assert whole != sample(2, slice(0, 3)) and whole[0] != whole[1]
    floor = [place for place, score in enumerate(scores[0]) if score <= 0.76]
    assert all(len(row) == 5 and set(row) <= set(floor) for row in whole)


def test_sample_is_uniform():
    names = [[f"d{number}" for number in range(10)]] * 3000
    pairs = [(f"q{row}", "p") for row in range(3000)]
    draw = lots(0, pairs, names, 10)
    rows = taken(np.full((3000, 10), 0.1), np.full(3000, 0.9), draw, strategy="sampled", num_negatives=2)
    share = np.bincount(np.concatenate(rows), minlength=10) / 3000
    assert np.abs(share - 0.2).max() < 0.04  # 5 standard deviations


def test_sample_of_fewer_than_asked_takes_all_that_is_allowed():
    draw = lots(0, [("q", "p")], [["a", "b", "c"]], 3)
    assert taken([[0.95, 0.5, 0.4]], [0.9], draw, strategy="sampled", num_negatives=9) == [[1, 2]]


def test_negatives_carry_rank_in_the_search_score_and_reason():
    candidates = [[{"doc_id": "a", "score": 0.9}, {"doc_id": "b", "score": 0.5}], []]
    found, refused = negatives([("q", "p"), ("r", "p")], candidates, np.array([0.8, 0.8], np.float32), Rule())
    assert found == [[{"doc_id": "b", "score": 0.5, "rank": 2, "reason": "mined: 0.62 of positive"}], []]
    assert refused == {"near_positive": 1}


def test_reason_for_a_positive_below_zero():
    assert reason(-0.31, -0.02) == "mined: -0.31, positive -0.02"


def test_matches_joins_every_owner_with_every_document_of_its_key():
    owners, keys = np.array([0, 1, 1, 2]), np.array([7, 7, 9, 0], np.uint64)
    owner, row = matches(owners, keys, np.array([9, 0, 7, 5, 7], np.uint64))
    assert sorted(zip(owner.tolist(), row.tolist(), strict=True)) == [(0, 2), (0, 4), (1, 0), (1, 2), (1, 4)]


def test_a_window_beyond_the_candidates_is_refused():
    with pytest.raises(UserError, match="top_k 10 is below"):
        validate(MineConfig, {"top_k": 10, "rule": {"skip_top": 5, "num_negatives": 8}})
    with pytest.raises(UserError, match=r"rule\.max_percentage"):
        validate(MineConfig, {"rule": {"max_percentage": 1.2}})
