"""Metrics against trec_eval's code and by hand; significance on planted and on absent differences."""

import math

import numpy as np
import pytest
import pytrec_eval

from pipeline.core.errors import UserError
from pipeline.metrics import significance
from pipeline.metrics.pair_scores import spearman_correlation
from pipeline.metrics.registry import parse_metric
from pipeline.metrics.retrieval import DEFAULT_METRICS, depth, mean, relevant, retrieval
from pipeline.metrics.trec_eval import gains
from pipeline.metrics.triplets import triplet_correct, triplet_margins


def random_case(seed, queries=40, docs=300, listed=150):
    rng = np.random.default_rng(seed)
    names = np.array([f"d{i}" for i in range(docs)])
    rankings = {f"q{q}": rng.permutation(names)[:listed].tolist() for q in range(queries)}
    judgments = {
        f"q{q}": {str(d): int(g) for d, g in zip(rng.permutation(names)[:20], rng.integers(0, 4, 20), strict=True)}
        for q in range(queries)
    }
    return rankings, judgments


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_pytrec_eval(seed):
    rankings, judgments = random_case(seed)
    ours = retrieval(rankings, judgments)
    run = {q: {d: 1.0 / (1 + place) for place, d in enumerate(docs)} for q, docs in rankings.items()}
    exponential = {q: {d: 2**g - 1 for d, g in grades.items()} for q, grades in judgments.items()}
    theirs = pytrec_eval.RelevanceEvaluator(exponential, {"ndcg_cut.10", "map", "recall.100", "success.1"}).evaluate(
        run
    )
    top = {q: dict(list(scores.items())[:10]) for q, scores in run.items()}
    first = pytrec_eval.RelevanceEvaluator(exponential, {"recip_rank"}).evaluate(top)
    for ours_name, theirs_name in {"ndcg@10": "ndcg_cut_10", "map": "map", "recall@100": "recall_100"}.items():
        assert ours[ours_name] == {q: theirs[q][theirs_name] for q in rankings}
    assert ours["hit@1"] == {q: theirs[q]["success_1"] for q in rankings}
    assert ours["mrr@10"] == {q: first[q]["recip_rank"] for q in rankings}


@pytest.mark.parametrize("seed", [2, 3])
def test_variants_equal_trec_eval(seed):
    """Judged documents alone by its own flag, on whole rankings; linear gain as it is without our gains."""
    rankings, judgments = random_case(seed)
    ours = retrieval(rankings, judgments, ["ndcg@10:judged", "hit@1:judged", "map:judged", "ndcg@10:linear", "ndcg@10"])
    run = {q: {d: 1.0 / (1 + place) for place, d in enumerate(docs)} for q, docs in rankings.items()}
    exponential = {q: {d: 2**g - 1 for d, g in grades.items()} for q, grades in judgments.items()}
    measures = {"ndcg_cut.10", "success.1", "map"}
    judged = pytrec_eval.RelevanceEvaluator(exponential, measures, judged_docs_only_flag=True).evaluate(run)
    linear = pytrec_eval.RelevanceEvaluator(judgments, {"ndcg_cut.10"}).evaluate(run)
    for name, other in {"ndcg@10": "ndcg_cut_10", "hit@1": "success_1", "map": "map"}.items():
        assert ours[f"{name}:judged"] == {q: judged[q][other] for q in rankings}
    assert ours["ndcg@10:linear"] == {q: linear[q]["ndcg_cut_10"] for q in rankings}
    assert mean(ours["ndcg@10:judged"]) > mean(ours["ndcg@10"]) != mean(ours["ndcg@10:linear"])


def test_judged_only_cuts_after_it_drops():
    judgments, ranking = {"q": {"a": 1, "b": 0}}, {"q": ["x", "y", "b", "a"]}
    names = ["mrr@2", "mrr@2:judged", "judged@2", "judged@3", "judged@9"]
    found = {name: values["q"] for name, values in retrieval(ranking, judgments, names).items()}
    assert found == {"mrr@2": 0.0, "mrr@2:judged": 0.5, "judged@2": 0.0, "judged@3": 1 / 3, "judged@9": 0.5}
    assert retrieval({}, judgments, ["judged@5"]) == {"judged@5": {"q": 0.0}}


def test_by_hand():
    found = retrieval({"q": ["x", "b", "a"]}, {"q": {"a": 3, "b": 1, "c": 0}}, [*DEFAULT_METRICS, "recall@2", "mrr@1"])
    ideal = 7 / math.log2(2) + 1 / math.log2(3)
    assert found["ndcg@10"]["q"] == pytest.approx((1 / math.log2(3) + 7 / math.log2(4)) / ideal)
    assert found["mrr@10"]["q"] == 0.5
    assert found["mrr@1"]["q"] == 0.0
    assert found["map"]["q"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["recall@100"]["q"] == 1.0
    assert found["recall@2"]["q"] == 0.5
    assert found["hit@1"]["q"] == 0.0


def test_queries_without_relevant_documents_are_skipped_and_missing_rankings_count_zero():
    judgments = {"none": {"a": 0}, "negative": {"a": -1}, "asked": {"a": 1}, "missing": {"a": 1}, "empty": {"a": 1}}
    found = retrieval({"asked": ["a"], "none": ["a"], "empty": []}, judgments, ["hit@1"])
    assert found == {"hit@1": {"asked": 1.0, "missing": 0.0, "empty": 0.0}}
    assert mean(found["hit@1"]) == pytest.approx(1 / 3)
    assert retrieval({}, {"q": {"a": 0}}, ["map"]) == {"map": {}}
    assert mean({}) == 0.0


def test_rank_decides_and_not_the_document_id():
    docs = [f"d{i}" for i in range(50)]
    for order in (docs, docs[::-1]):
        assert retrieval({"q": order}, {"q": {order[0]: 1}}, ["hit@1"])["hit@1"]["q"] == 1.0


def test_gains_and_relevant_documents():
    assert gains({"a": 0, "b": 1, "c": 2, "d": 3, "e": -2}) == {"a": 0, "b": 1, "c": 3, "d": 7, "e": 0}
    assert relevant({"b": 1, "a": 1, "z": 3, "n": 0}) == ["z", "a", "b"]
    with pytest.raises(UserError, match="relevance 31"):
        gains({"a": 31})


def parts(name):
    spec = parse_metric(name)
    return spec.metric.name, spec.cutoff, spec.variant


def test_metric_names():
    assert parts("ndcg@5") == ("ndcg", 5, "")
    assert parts("map") == ("map", None, "")
    assert depth(["ndcg@10"]) == 100
    assert depth(["recall@1000", "map"]) == 1000
    assert parts("map:judged") == ("map", None, "judged")
    for wrong in ("mrr@10:linear", "ndcg@10:", "ndcg@10:other", "judged@10:judged", "judged", "ndcg:judged"):
        with pytest.raises(UserError, match="unknown metric"):
            parse_metric(wrong)
    for wrong in ("ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "precision@3", "map@", ""):
        with pytest.raises(UserError, match="unknown metric"):
            parse_metric(wrong)


def test_map_with_a_cutoff_cuts_the_ranking():
    assert retrieval({"q": ["x", "a"]}, {"q": {"a": 1}}, ["map@1", "map@2"]) == {
        "map@1": {"q": 0.0},
        "map@2": {"q": 0.5},
    }


def test_triplets():
    margins = triplet_margins(np.array([0.9, 0.5, 0.4]), [np.array([0.1, 0.7]), np.array([0.5]), np.array([0.6])])
    assert margins == pytest.approx([0.2, 0.0, -0.2])
    assert triplet_correct(margins).tolist() == [1.0, 0.0, 0.0], "a tie is not nearer"
    assert triplet_correct(np.array([])).tolist() == []


def test_spearman():
    gold = np.array([0.0, 1.0, 2.0, 3.0])
    assert spearman_correlation(np.array([0.1, 0.2, 0.3, 9.0]), gold) == pytest.approx(1.0)
    assert spearman_correlation(np.array([4.0, 3.0, 2.0, 1.0]), gold) == pytest.approx(-1.0)
    assert spearman_correlation(np.zeros(4), gold) is None
    assert spearman_correlation(np.array([1.0]), np.array([1.0])) is None


def test_permutation_finds_a_planted_difference_and_is_symmetric():
    rng = np.random.default_rng(3)
    base = rng.random(200)
    better = base + 0.05 + rng.normal(0, 0.1, 200)
    p = significance.permutation_test(better, base)
    assert p == 1 / 10_001
    assert significance.permutation_test(base, better) == p
    assert significance.permutation_test(better, base) == p


def test_permutation_equals_enumeration():
    ours, theirs = np.array([0.9, 0.8, 0.4, 0.7, 0.6, 0.5]), np.array([0.5, 0.6, 0.5, 0.6, 0.3, 0.3])
    differences = ours - theirs
    signs = np.array([[1 if code >> bit & 1 else -1 for bit in range(6)] for code in range(64)])
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
    assert significance.permutation_test(ours, theirs, samples=40_000) == pytest.approx(exact, abs=0.01)


def test_permutation_is_level_under_no_difference():
    rng = np.random.default_rng(5)
    p_values = [
        significance.permutation_test(rng.random(30), rng.random(30), samples=400, seed=seed) for seed in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.11
    assert 0.4 < np.mean(p_values) < 0.6
    assert significance.permutation_test(np.ones(9), np.ones(9)) == 1.0


def test_the_detectable_difference_is_found_in_four_of_five_samples():
    rng, queries, spread = np.random.default_rng(0), 60, 0.3
    wanted = significance.detectable_difference(rng.normal(0, spread, 100_000)) * np.sqrt(100_000 / queries)
    samples = rng.normal(wanted, spread, (300, queries))
    found = [significance.permutation_test(row, np.zeros(queries), samples=400) < 0.05 for row in samples]
    assert 0.72 < np.mean(found) < 0.88
    assert significance.detectable_difference(np.ones(1)) == significance.detectable_difference(np.ones(9)) == 0.0


def test_holm():
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0]
    assert significance.holm([]) == []


def test_bootstrap_covers_the_mean():
    rng = np.random.default_rng(9)
    covered = 0
    for seed in range(100):
        low, high = significance.bootstrap_interval(rng.normal(1.0, 1.0, 80), samples=400, seed=seed)
        covered += low <= 1.0 <= high
    assert 86 <= covered <= 100
    assert significance.bootstrap_interval(np.array([0.25, 0.25])) == (0.25, 0.25)
