"""Losses against naive few-line formulas, and the false-negative masks against planted truth."""

import math

import pytest
import torch
from torch.nn import functional as F

from training.losses.infonce import InfoNCE
from training.losses.masks import MaskConfig, document_mask
from training.losses.objective import local
from training.losses.triplet import TripletMargin

NONE = MaskConfig(same_document=False, known_positives=False, same_query=False)


def rows(n=5, negatives=2, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(n, dim), draw(n, dim), draw(n, negatives, dim)


def test_infonce_is_the_formula():
    query, positive, negative = rows()
    total = 0.0
    documents = torch.cat([positive, negative.reshape(-1, 6)])
    for i, q in enumerate(query):
        exps = [math.exp(float(F.cosine_similarity(q, d, dim=0)) / 0.05) for d in documents]
        total -= math.log(exps[i] / sum(exps))
    found = InfoNCE(mask=NONE)(local(query, positive, negative), {})
    assert float(found.loss) == pytest.approx(total / 5, rel=1e-10)


def test_infonce_equals_sentence_transformers():
    losses = pytest.importorskip("sentence_transformers.losses")
    query, positive, negative = rows(negatives=1)
    peer = losses.MultipleNegativesRankingLoss(model=None, scale=20.0)
    expected = peer.compute_loss_from_embeddings([query, positive, negative[:, 0]], None)
    found = InfoNCE(mask=NONE)(local(query, positive, negative), {})
    assert float(found.loss) == pytest.approx(float(expected), rel=1e-9)


def test_learned_temperature_starts_at_the_fixed_one():
    query, positive, negative = rows()
    learned = InfoNCE(mask=NONE, learn_temperature=True)
    start = {name: torch.tensor(value, dtype=torch.float64) for name, value in learned.learned().items()}
    fixed = InfoNCE(mask=NONE)(local(query, positive, negative), {})
    assert float(learned(local(query, positive, negative), start).loss) == pytest.approx(float(fixed.loss), rel=1e-12)


def test_planted_duplicates_are_masked_and_nothing_else():
    query, positive, negative = rows(n=4, negatives=1)
    batch = local(
        query,
        positive,
        negative,
        positive_id=torch.tensor([10, 11, 10, 13]),  # row 2 has row 0's document
        negative_id=torch.tensor([20, 13, 22, 23]),  # row 1's negative is row 3's positive
        query_id=torch.tensor([1, 2, 3, 2]),  # rows 1 and 3 share a query
        known=torch.tensor([[10, -1], [11, 22], [10, -1], [13, -1]]),  # 22 is relevant to row 1's query
    )
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = True
    expected[1, 3] = expected[3, 1] = True
    expected[3, 5] = True
    expected[1, 6] = True
    assert torch.equal(document_mask(batch, MaskConfig()), expected)
    assert not document_mask(batch, NONE).any()
    assert float(InfoNCE()(batch, {}).report["masked"]) == pytest.approx(6 / 32)


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "manhattan"])
def test_triplet_is_the_formula(distance):
    query, positive, negative = rows()
    measure = {
        "cosine": lambda a, b: 1 - float(F.cosine_similarity(a, b, dim=0)),
        "euclidean": lambda a, b: float((a - b).norm()),
        "manhattan": lambda a, b: float((a - b).abs().sum()),
    }[distance]
    terms = [
        max(0.0, measure(q, p) - measure(q, n) + 0.3)
        for q, p, ns in zip(query, positive, negative, strict=True)
        for n in ns
    ]
    found = TripletMargin(margin=0.3, distance=distance)(local(query, positive, negative), {})
    assert float(found.loss) == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    assert float(found.report["active"]) == pytest.approx(sum(t > 0 for t in terms) / len(terms))


def test_triplet_without_negatives_is_zero_and_differentiable():
    query, positive, _ = rows()
    query.requires_grad_()
    share = TripletMargin()(local(query, positive), {})
    share.loss.backward()
    assert float(share.loss.detach()) == 0.0
    assert torch.equal(query.grad, torch.zeros_like(query))
