"""Our figures beside those of Sentence Transformers' evaluators on the same vectors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.evaluation import duplicates, scores
from pipeline.evaluation.dataset import EvalDataset, Triplet
from pipeline.evaluation.similarity_samples import sample_pairs
from pipeline.metrics import pair_scores
from pipeline.metrics.retrieval import mean, retrieval
from pipeline.search.exact import top_k

evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")


class Fixed:
    """A model whose vectors are given, in float64, as the evaluators call one."""

    similarity_fn_name = "cosine"
    model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *args: None)

    def __init__(self, dim=24, seed=0):
        self.rng, self.dim, self.vectors = np.random.default_rng(seed), dim, {}

    def vector(self, text):
        if text not in self.vectors:
            topic = text.split(" ")[0]
            centre = np.random.default_rng(sum(map(ord, topic))).normal(size=self.dim)
            noisy = centre + self.rng.normal(0, 0.9, self.dim)
            self.vectors[text] = noisy / np.linalg.norm(noisy)
        return self.vectors[text]

    def encode(self, sentences, convert_to_tensor=False, **ignored):
        found = np.stack([self.vector(text) for text in sentences])
        return torch.from_numpy(found) if convert_to_tensor else found

    encode_query = encode_document = encode

    def similarity(self, a, b):
        return torch.as_tensor(a) @ torch.as_tensor(b).T


@pytest.fixture
def model():
    return Fixed()


TOPICS = [f"topic{n}" for n in range(12)]
DOCUMENTS = {f"d{t}-{n}": f"{topic} document {n}" for t, topic in enumerate(TOPICS) for n in range(6)}
QUERIES = {f"q{t}": f"{topic} question" for t, topic in enumerate(TOPICS)}


def test_retrieval(model):
    wanted = {f"q{t}": {f"d{t}-{n}" for n in range(t % 5 + 1)} for t in range(12)}
    theirs = evaluation.InformationRetrievalEvaluator(
        QUERIES,
        DOCUMENTS,
        wanted,
        accuracy_at_k=[1, 3],
        precision_recall_at_k=[10],
        mrr_at_k=[10],
        ndcg_at_k=[10],
        map_at_k=[100],
        write_csv=False,
    )(model)
    queries, documents = model.encode(QUERIES.values()), model.encode(DOCUMENTS.values())
    _, rows = top_k(queries, [documents], 72)
    ids = list(DOCUMENTS)
    ranked = {query: [ids[row] for row in found] for query, found in zip(QUERIES, rows, strict=True)}
    judged = {query: dict.fromkeys(sorted(docs), 1) for query, docs in wanted.items()}
    ours = retrieval(ranked, judged, ["hit@1", "hit@3", "recall@10", "mrr@10", "ndcg@10", "map"])
    named = {
        "hit@1": "accuracy@1",
        "hit@3": "accuracy@3",
        "recall@10": "recall@10",
        "mrr@10": "mrr@10",
        "ndcg@10": "ndcg@10",
        "map": "map@100",
    }
    for name, other in named.items():
        assert mean(ours[name]) == pytest.approx(theirs[f"cosine_{other}"], abs=1e-9), name
    assert 0.2 < mean(ours["ndcg@10"]) < 0.99


def labelled(model, graded):
    rng = np.random.default_rng(3)
    dataset, left, right, gold = EvalDataset(), [], [], []
    for number in range(300):
        a, b = rng.integers(0, 12, 2) if rng.random() < 0.6 else [rng.integers(0, 12)] * 2
        left.append(f"{TOPICS[a]} left {number % 90}")
        right.append(f"{TOPICS[b]} right {number % 70}")
        gold.append(float(a == b) * (1 + rng.integers(0, 3) if graded else 1))
    for one, other, score in zip(left, right, gold, strict=True):
        dataset.scored_pairs.append((dataset.index_of(one), dataset.index_of(other), score))
    vectors = model.encode(dataset.texts)
    return left, right, gold, dataset, vectors


def test_yes_or_no_pairs(model):
    left, right, gold, dataset, vectors = labelled(model, graded=False)
    theirs = evaluation.BinaryClassificationEvaluator(left, right, [int(g) for g in gold], write_csv=False)(model)
    cosines = scores.pair_cosines(vectors, vectors, dataset)
    ours = {name: one.value for name, one in scores.pair_statistics(cosines, dataset, 0).items()}
    ours |= scores.pair_thresholds(cosines, dataset)
    named = {
        "average_precision": "ap",
        "f1": "f1",
        "f1_precision": "precision",
        "f1_recall": "recall",
        "f1_threshold": "f1_threshold",
        "accuracy": "accuracy",
        "accuracy_threshold": "accuracy_threshold",
    }
    for name, other in named.items():
        assert ours[name] == pytest.approx(theirs[f"cosine_{other}"], abs=1e-9), name
    assert 0.3 < ours["f1"] < 0.999


def test_graded_pairs(model):
    left, right, gold, dataset, vectors = labelled(model, graded=True)
    theirs = evaluation.EmbeddingSimilarityEvaluator(left, right, gold, write_csv=False)(model)
    found = scores.pair_statistics(scores.pair_cosines(vectors, vectors, dataset), dataset, 0)
    assert set(found) == {"spearman", "pearson"}
    assert found["spearman"].value == pytest.approx(theirs["spearman_cosine"], abs=1e-9)
    assert found["pearson"].value == pytest.approx(theirs["pearson_cosine"], abs=1e-9)
    low, high = np.quantile(found["spearman"].samples, [0.025, 0.975])
    assert low < found["spearman"].value < high


def test_triplets(model):
    texts = [(QUERIES[f"q{t}"], DOCUMENTS[f"d{t}-0"], DOCUMENTS[f"d{t}-{n}"]) for t in range(12) for n in (1, 2)]
    theirs = evaluation.TripletEvaluator(*zip(*texts, strict=True), write_csv=False)(model)
    rows = {text: row for row, text in enumerate(DOCUMENTS.values())}
    dataset = EvalDataset()
    dataset.triplets = [Triplet(dataset.index_of(a), (p, p), [(n, n)]) for a, p, n in texts]
    pairs = sample_pairs(dataset, rows, len(rows), 0)
    text, row = pairs.arrays()
    queries, documents = model.encode(dataset.texts), model.encode(DOCUMENTS.values())
    similarities = np.einsum("ij,ij->i", queries[text], documents[row])
    ours = scores.triplet_values(similarities, pairs, len(dataset.triplets))
    assert mean(ours["triplet_accuracy"]) == pytest.approx(theirs["cosine_accuracy"], abs=1e-7), "theirs is float32"
    assert 0.2 < mean(ours["triplet_accuracy"]) < 0.8


def test_mined_duplicates(model):
    texts = {f"t{n}": f"{TOPICS[n % 12]} text {n}" for n in range(48)}
    known = [(f"t{n}", f"t{n + 12}") for n in range(24)]
    theirs = evaluation.ParaphraseMiningEvaluator(texts, known, write_csv=False, top_k=100)(model)
    number = {name: place for place, name in enumerate(texts)}
    vectors = model.encode(texts.values())
    mined = duplicates.mine_pairs(vectors.astype(np.float32), [(number[a], number[b]) for a, b in known])
    cut = pair_scores.f1_at_best_threshold(mined.scores, mined.is_duplicate, len(mined.duplicates))
    assert mined.score(pair_scores.average_precision, pair_scores.ones(48))[0] == pytest.approx(
        theirs["average_precision"], abs=1e-9
    )
    assert cut["f1"] == pytest.approx(theirs["f1"], abs=1e-9)
    assert cut["f1_precision"] == pytest.approx(theirs["precision"], abs=1e-9)
    assert cut["f1_recall"] == pytest.approx(theirs["recall"], abs=1e-9)
    assert cut["f1_threshold"] == pytest.approx(theirs["threshold"], abs=1e-6), "vectors are float32 where we search"
