"""Our figures beside those of Sentence Transformers' evaluators on the same vectors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.evaluation import duplicates, scores
from pipeline.evaluation.dataset import Questions, Triplet
from pipeline.evaluation.similarity_samples import make_probes
from pipeline.metrics import pair_scores
from pipeline.metrics.retrieval import mean, retrieval
from pipeline.search.exact import top_k

evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")


class Fixed:
    """A model whose vectors are given, in float64, as the evaluators call one."""

    similarity_fn_name = "cosine"
    model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *args: None)

    def __init__(self, dim=24, seed=0):
        self.rng, self.dim, self.held = np.random.default_rng(seed), dim, {}

    def vector(self, text):
        if text not in self.held:
            topic = text.split(" ")[0]
            centre = np.random.default_rng(sum(map(ord, topic))).normal(size=self.dim)
            drawn = centre + self.rng.normal(0, 0.9, self.dim)
            self.held[text] = drawn / np.linalg.norm(drawn)
        return self.held[text]

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
    asked, left, right, gold = Questions(), [], [], []
    for number in range(300):
        a, b = rng.integers(0, 12, 2) if rng.random() < 0.6 else [rng.integers(0, 12)] * 2
        left.append(f"{TOPICS[a]} left {number % 90}")
        right.append(f"{TOPICS[b]} right {number % 70}")
        gold.append(float(a == b) * (1 + rng.integers(0, 3) if graded else 1))
    for one, other, score in zip(left, right, gold, strict=True):
        asked.labelled.append((asked.place(one), asked.place(other), score))
    vectors = model.encode(asked.texts)
    return left, right, gold, asked, vectors


def test_yes_or_no_pairs(model):
    left, right, gold, asked, vectors = labelled(model, graded=False)
    theirs = evaluation.BinaryClassificationEvaluator(left, right, [int(g) for g in gold], write_csv=False)(model)
    cosines = scores.pair_cosines(vectors, vectors, asked)
    ours = {name: one.value for name, one in scores.pair_statistics(cosines, asked, 0).items()}
    ours |= scores.pair_cuts(cosines, asked)
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
    left, right, gold, asked, vectors = labelled(model, graded=True)
    theirs = evaluation.EmbeddingSimilarityEvaluator(left, right, gold, write_csv=False)(model)
    found = scores.pair_statistics(scores.pair_cosines(vectors, vectors, asked), asked, 0)
    assert set(found) == {"spearman", "pearson"}
    assert found["spearman"].value == pytest.approx(theirs["spearman_cosine"], abs=1e-9)
    assert found["pearson"].value == pytest.approx(theirs["pearson_cosine"], abs=1e-9)
    low, high = np.quantile(found["spearman"].samples, [0.025, 0.975])
    assert low < found["spearman"].value < high


def test_triplets(model):
    texts = [(QUERIES[f"q{t}"], DOCUMENTS[f"d{t}-0"], DOCUMENTS[f"d{t}-{n}"]) for t in range(12) for n in (1, 2)]
    theirs = evaluation.TripletEvaluator(*zip(*texts, strict=True), write_csv=False)(model)
    rows = {text: row for row, text in enumerate(DOCUMENTS.values())}
    asked = Questions()
    asked.triplets = [Triplet(asked.place(a), (p, p), [(n, n)]) for a, p, n in texts]
    probes = make_probes(asked, rows, len(rows), 0)
    text, row = probes.arrays()
    queries, documents = model.encode(asked.texts), model.encode(DOCUMENTS.values())
    similarities = np.einsum("ij,ij->i", queries[text], documents[row])
    ours = scores.triplet_values(similarities, probes, len(asked.triplets))
    assert mean(ours["triplet_accuracy"]) == pytest.approx(theirs["cosine_accuracy"], abs=1e-7), "theirs is float32"
    assert 0.2 < mean(ours["triplet_accuracy"]) < 0.8


def test_mined_duplicates(model):
    texts = {f"t{n}": f"{TOPICS[n % 12]} text {n}" for n in range(48)}
    known = [(f"t{n}", f"t{n + 12}") for n in range(24)]
    theirs = evaluation.ParaphraseMiningEvaluator(texts, known, write_csv=False, top_k=100)(model)
    number = {name: place for place, name in enumerate(texts)}
    vectors = model.encode(texts.values())
    mined = duplicates.mine(vectors.astype(np.float32), [(number[a], number[b]) for a, b in known])
    cut = pair_scores.f1_cut(mined.scores, mined.known, len(mined.wanted))
    assert mined.average_precision(pair_scores.ones(48))[0] == pytest.approx(theirs["average_precision"], abs=1e-9)
    assert cut["f1"] == pytest.approx(theirs["f1"], abs=1e-9)
    assert cut["f1_precision"] == pytest.approx(theirs["precision"], abs=1e-9)
    assert cut["f1_recall"] == pytest.approx(theirs["recall"], abs=1e-9)
    assert cut["f1_threshold"] == pytest.approx(theirs["threshold"], abs=1e-6), "vectors are float32 where we search"
