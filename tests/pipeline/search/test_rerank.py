"""The system that ranks another one's documents anew: orders, settings and what is refused."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.search.exact import TopK
from pipeline.search.rerank import Rerank, reorder, rescore
from pipeline.search.score_mix import GRID
from pipeline.search.systems import search_system


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 2))
def test_scored_documents_come_first_in_their_order_and_the_others_keep_theirs(scores, behind, empty):
    count = len(scores)
    rows = [*range(50, 50 - count - behind, -1), *[-1] * empty]
    best = TopK(np.linspace(1, 0, len(rows), dtype=np.float32)[None], np.array([rows]))
    ranked = reorder(best, np.float32([scores]))
    wanted = [row for _, row in sorted(zip([-score for score in scores], rows, strict=False))]
    assert ranked.rows[0].tolist() == wanted + rows[count:]
    filled = ranked.scores[0][ranked.rows[0] >= 0]
    assert filled[:count].tolist() == sorted(scores, reverse=True) and (np.diff(filled) <= 0).all()
    assert (ranked.scores[0][ranked.rows[0] < 0] == -np.inf).all()


def test_places_without_a_document_stay_last():
    best = TopK(np.float32([[0.5, -np.inf, -np.inf]]), np.array([[4, -1, -1]]))
    ranked = reorder(best, np.float32([[-7.0, -np.inf]]))
    assert ranked.rows.tolist() == [[4, -1, -1]] and ranked.scores[0, 0] == -7


class Lengths:
    """A scorer by the lengths of both texts."""

    def score(self, lefts: Sequence[str], rights: Sequence[str]) -> np.ndarray:
        return np.float32([100 * len(left) + len(right) for left, right in zip(lefts, rights, strict=True)])


def test_scores_come_back_by_query():
    texts = {5: "five", 6: "sixsix", 9: ""}
    assert rescore(Lengths(), ["a", "bb", "c"], [[6, 9], [], [5]], texts) == [[106, 100], [], [104]]


def test_it_is_made_of_another_system():
    system = search_system({"type": "rerank", "cross_encoder": {"model": "m"}, "of": "bm25"})
    assert isinstance(system, Rerank) and system.needs == (False, True) and not system.choices()
    assert system.describe() == "BM25; of these the first 100 in the order of m"
    mixed = search_system({"type": "rerank", "cross_encoder": {"model": "m"}, "top": 20})
    assert next(choice.of.weight for choice in mixed.choices()) == 0.5 and len(mixed.choices()) == len(GRID)
    assert mixed.joined == 100 and search_system(mixed.model_dump(mode="json")) == mixed
    with pytest.raises(UserError, match="it cannot score documents anew itself"):
        search_system({"type": "rerank", "cross_encoder": {"model": "m"}, "of": mixed.model_dump()})
    with pytest.raises(UserError, match=r"cross_encoder"):
        search_system("rerank")
