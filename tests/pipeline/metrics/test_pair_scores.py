"""Figures of scored pairs, clusters and mined duplicates against scipy, scikit-learn and repeated rows."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from pipeline.evaluation import duplicates, scores
from pipeline.evaluation.dataset import EvalDataset
from pipeline.metrics import clustering, pair_scores, significance
from pipeline.metrics.significance import bootstrap_p
from pipeline.storage.vectors import l2_normalize


def scored(seed, pairs=400, ties=True):
    rng = np.random.default_rng(seed)
    right = rng.random(pairs) < 0.3
    scores = rng.normal(right * 0.8, 1.0)
    return (np.round(scores, 1) if ties else scores), right, rng.integers(0, 5, pairs).astype(np.float64)


@pytest.mark.parametrize("ties", [True, False])
def test_equal_to_scikit_learn_and_scipy(ties):
    scores, right, graded = scored(0, ties=ties)
    one = pair_scores.ones(len(scores))
    assert pair_scores.average_precision(scores, right, one)[0] == pytest.approx(
        sk.average_precision_score(right, scores), abs=1e-9
    )
    assert pair_scores.spearman(scores, graded, one)[0] == pytest.approx(stats.spearmanr(scores, graded)[0], abs=1e-9)
    assert pair_scores.pearson(scores, graded, one)[0] == pytest.approx(stats.pearsonr(scores, graded)[0], abs=1e-9)
    cut = pair_scores.f1_at_best_threshold(scores, right) | pair_scores.accuracy_at_best_threshold(scores, right)
    candidates = [*np.unique(scores), scores.max() + 1]
    f1 = [sk.f1_score(right, scores >= at) for at in candidates]
    accuracy = [sk.accuracy_score(right, scores >= at) for at in candidates]
    assert cut["f1"] == pytest.approx(max(f1), abs=1e-9)
    assert cut["accuracy"] == pytest.approx(max(accuracy), abs=1e-9)
    taken = scores >= cut["f1_threshold"]
    assert sk.f1_score(right, taken) == pytest.approx(cut["f1"], abs=1e-9)
    assert sk.precision_score(right, taken) == pytest.approx(cut["f1_precision"], abs=1e-9)
    assert sk.recall_score(right, taken) == pytest.approx(cut["f1_recall"], abs=1e-9)
    assert sk.accuracy_score(right, scores >= cut["accuracy_threshold"]) == pytest.approx(cut["accuracy"], abs=1e-9)
    assert pair_scores.best_f1(scores, right, one)[0] == pytest.approx(cut["f1"], abs=1e-12)
    assert pair_scores.best_accuracy(scores, right, one)[0] == pytest.approx(cut["accuracy"], abs=1e-12)


@pytest.mark.parametrize("name", ["average_precision", "best_f1", "best_accuracy", "spearman", "pearson"])
def test_a_weight_counts_a_pair_so_often(name):
    scores, right, graded = scored(1, pairs=60)
    statistic = getattr(pair_scores, name)
    gold = graded if name in {"spearman", "pearson"} else right
    (weights,) = significance.resamples(60, 7, seed=3)
    assert (weights.sum(axis=1) == 60).all() and len(weights) == 7
    for row, found in zip(weights, statistic(scores, gold, weights), strict=True):
        repeated = np.repeat(np.arange(60), row.astype(int))
        wanted = statistic(scores[repeated], gold[repeated], pair_scores.ones(60))[0]
        assert found == pytest.approx(wanted, abs=1e-12)


def test_what_does_not_vary_has_no_correlation():
    assert pair_scores.pearson(np.ones(5), np.arange(5.0), pair_scores.ones(5)) == [0.0]
    assert not pair_scores.varies(np.ones(3)) and not pair_scores.varies(np.array([1.0]))
    assert pair_scores.average_precision(np.arange(3.0), np.zeros(3, bool), pair_scores.ones(3)) == [0.0]
    none = pair_scores.accuracy_at_best_threshold(np.array([0.1, 0.9]), np.array([False, False]))
    assert none["accuracy"] == 1.0 and none["accuracy_threshold"] > 0.9


def test_v_measure_is_that_of_scikit_learn():
    rng = np.random.default_rng(4)
    labels, assigned = rng.integers(0, 6, 300), rng.integers(0, 5, (3, 300))
    assigned[0] = labels
    wanted = np.mean([sk.v_measure_score(labels, run) for run in assigned])
    assert clustering.v_measure(assigned, labels, pair_scores.ones(300))[0] == pytest.approx(wanted, abs=1e-9)
    (weights,) = significance.resamples(300, 4, seed=1)
    for row, found in zip(weights, clustering.v_measure(assigned, labels, weights), strict=True):
        repeated = np.repeat(np.arange(300), row.astype(int))
        wanted = np.mean([sk.v_measure_score(labels[repeated], run[repeated]) for run in assigned])
        assert found == pytest.approx(wanted, abs=1e-9)


def test_planted_clusters_are_found():
    rng = np.random.default_rng(5)
    centres, labels = rng.normal(size=(4, 16)), np.repeat(np.arange(4), 30)
    vectors = l2_normalize((centres[labels] + rng.normal(0, 0.05, (120, 16))).astype(np.float32))
    assigned = clustering.assign(vectors, 4)
    assert assigned.shape == (clustering.SEEDS, 120)
    assert clustering.v_measure(assigned, labels, pair_scores.ones(120))[0] > 0.8
    assert (clustering.assign(vectors, 4) == assigned).all()


def texts_with_twins(seed=6, count=40):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 12))
    vectors[1::4] = vectors[::4] + rng.normal(0, 0.3, (count // 4, 12))
    return l2_normalize(vectors.astype(np.float32)), [(n, n + 1) for n in range(0, count, 4)] + [(1, 0), (5, 5)]


def test_mined_duplicates_by_hand():
    vectors, known = texts_with_twins()
    mined = duplicates.mine_pairs(vectors, known)
    assert len(mined.duplicates) == 10 and mined.texts == 40
    assert (mined.first < mined.second).all() and (np.diff(mined.scores) <= 0).all()
    assert len(mined.scores) == 40 * 39 // 2
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    right, above = 0, []
    for n, (a, b) in enumerate(zip(mined.first, mined.second, strict=True), 1):
        assert mined.scores[n - 1] == pytest.approx(cosines[a, b], abs=1e-6)
        right += b == a + 1 and a % 4 == 0
        above.append(2 * right / (n + 10))
    assert mined.score(pair_scores.best_f1, pair_scores.ones(40))[0] == pytest.approx(max(above))
    few = duplicates.mine_pairs(vectors, known, neighbours=1, max_pairs=5)
    assert len(few.scores) == 5 and few.score(pair_scores.average_precision, pair_scores.ones(40))[0] <= 0.5


def test_resampled_texts_weigh_pairs_by_both_ends():
    vectors, known = texts_with_twins()
    mined = duplicates.mine_pairs(vectors, known)
    weights = np.zeros((1, 40))
    weights[0, :2] = 20  # two texts alone, which are twins
    assert mined.score(pair_scores.average_precision, weights)[0] == pytest.approx(1.0)


def test_models_share_resamples_whatever_pairs_they_mine():
    rng, dataset = np.random.default_rng(7), EvalDataset()
    for n in range(70):
        dataset.scored_pairs.append((dataset.index_of(f"left {n}"), dataset.index_of(f"right {n}"), float(n % 2)))
    vectors = [l2_normalize(rng.normal(size=(140, dim)).astype(np.float32)) for dim in (3, 48)]
    pairs = [len(duplicates.mine_pairs(one, [(0, 1)]).scores) for one in vectors]
    assert pairs[0] != pairs[1], "each model finds a number of its own"
    found = [scores.duplicate_statistics(one, dataset, 0)[0]["duplicate_f1"] for one in vectors]
    assert found[0].samples.shape == found[1].samples.shape
    assert 0 < bootstrap_p(found[0].samples - found[1].samples) <= 1


def test_a_paired_bootstrap_finds_what_is_there():
    rng = np.random.default_rng(8)
    gold = rng.random(200) < 0.4
    good, noise = rng.normal(gold * 1.5, 1), rng.normal(gold * 0.5, 1)
    samples = {
        name: np.concatenate([pair_scores.average_precision(s, gold, w) for w in significance.resamples(200, 500)])
        for name, s in (("good", good), ("noise", noise))
    }
    assert significance.bootstrap_p(samples["good"] - samples["noise"]) < 0.01
    assert significance.bootstrap_p(samples["good"] - samples["good"]) == 1.0
    low, high = significance.percentiles(samples["good"])
    assert low < pair_scores.average_precision(good, gold, pair_scores.ones(200))[0] < high
