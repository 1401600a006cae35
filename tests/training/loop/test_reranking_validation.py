"""Validation of a reranker: which documents are ranked, what the figures say, and that ranks agree."""

import numpy as np
import pytest
import torch

from tests.support.ranks import run_ranks
from training.loop.reranking_validation import RerankingValidation, ScoredPairsValidation, reranking_validation
from training.loop.validation import RetrievalValidation, SimilarityValidation

DOCUMENTS = {
    "lamp": "the lamp is mended with a new bulb",
    "tent": "the tent is mended with tape",
    "hose": "cut the hose and join it",
    "drill": "a drill needs a new battery",
    "query": "how is a lamp mended",
}
SAMPLE = RetrievalValidation(
    {"q1": "how is a lamp mended", "q2": "my tent leaks water"},
    DOCUMENTS,
    {"q1": {"lamp": 2, "query": 1}, "q2": {"hose": 1, "tent": 0, "gone": 1}},
    (np.array([0]), np.array([4])),
)


class Scorer:
    """Scores a pair by a rule."""

    device = torch.device("cpu")

    def __init__(self, right: bool) -> None:
        self.sign = 1.0 if right else -1.0

    def score(self, lefts, rights):
        right = [
            ("lamp" in left) == ("bulb" in right) and "tape" not in right
            for left, right in zip(lefts, rights, strict=True)
        ]
        return np.array([self.sign * value for value in right], np.float32)


def test_lists_are_what_bm25_finds_and_what_is_relevant_without_the_query_itself():
    made = RerankingValidation.of(SAMPLE, 2)
    assert list(made.lists) == ["q1", "q2"]
    assert sorted(made.lists["q1"]) == ["lamp", "query", "tent"], "barred where it is found, judged relevant otherwise"
    assert made.lists["q2"] == ["tent", "hose"]


def figures(right: bool) -> dict[str, float]:
    return RerankingValidation.of(SAMPLE, 2)(Scorer(right))


def test_a_good_reranker_has_higher_figures_on_every_rank():
    good, bad = figures(True), figures(False)
    assert set(good) == {"ndcg@10", "mrr@10"} and good["mrr@10"] == 1.0
    assert bad["mrr@10"] < good["mrr@10"] and bad["ndcg@10"] < good["ndcg@10"]
    assert run_ranks(2, figures, True) == [good, good]


def test_scored_pairs_are_compared_by_spearman():
    pairs = SimilarityValidation(["lamp", "lamp", "x"], ["bulb", "tape", "bulb"], [1.0, 0.2, 0.1])
    made = reranking_validation(pairs, 20)
    assert isinstance(made, ScoredPairsValidation)
    assert made(Scorer(True))["spearman"] == pytest.approx(-made(Scorer(False))["spearman"])
    assert made(Scorer(True))["spearman"] > 0.8
    assert reranking_validation(None, 20) is None
