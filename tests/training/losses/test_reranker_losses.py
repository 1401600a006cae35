"""Losses of rerankers: values as Sentence Transformers' losses of cross-encoders have them, names, and refusals."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from training.losses.loss import local_batch
from training.losses.registry import RerankerLoss
from training.run.reranker_config import RerankerConfig
from training.run.reranker_job import check_loss

POSITIVE = torch.tensor([[2.0], [-1.0], [0.5]])
NEGATIVE = torch.tensor([[[0.5], [1.5]], [[-2.0], [0.0]], [[3.0], [-3.0]]])


def value(settings: dict, **columns) -> float:
    loss = TypeAdapter(RerankerLoss).validate_python(settings).follow("dot", unit_length=False)
    columns = {"score": torch.ones(3), **columns}
    return float(loss(local_batch(torch.ones(3, 1), POSITIVE, NEGATIVE, **columns), {}).loss)


def test_binary_cross_entropy_is_torchs_mean_over_pairs():
    logits = torch.cat([POSITIVE[:, 0], NEGATIVE.flatten()])
    labels = torch.tensor([1.0] * 3 + [0.0] * 6)
    assert value({"type": "BinaryCrossEntropyLoss"}) == pytest.approx(
        float(F.binary_cross_entropy_with_logits(logits, labels)), rel=1e-6
    )
    weighted = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.tensor(2.0))
    assert value({"type": "bce", "pos_weight": 2.0}) == pytest.approx(float(weighted), rel=1e-6)


def test_binary_cross_entropy_follows_scores_and_grades_and_weights_of_rows():
    """Scores between 0 and 1 are targets as they are, grades above 1 count 1, a missing one what its place says."""
    logits = torch.cat([POSITIVE[:, 0], NEGATIVE.flatten()])
    labels = torch.tensor([0.25, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    grades = torch.tensor([0.0, 2.0, 0.0, 0.0, torch.nan, 0.0])
    weight = torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    found = value(
        {"type": "bce"},
        score=torch.tensor([0.25, 3.0, torch.nan]),
        negative_score=grades,
        weight=torch.tensor([1.0, 2.0, 3.0]),
    )
    assert found == pytest.approx(float((each * weight).sum() / weight.sum()), rel=1e-6)


def test_listwise_is_cross_entropy_over_the_documents_of_a_row():
    lists = torch.cat([POSITIVE, NEGATIVE[:, :, 0]], dim=1)
    expected = float(F.cross_entropy(lists, torch.zeros(3, dtype=torch.long)))
    for name in ("listwise", "MultipleNegativesRankingLoss", "localized_contrastive"):
        assert value({"type": name}) == pytest.approx(expected, rel=1e-6), name


def test_list_net_has_the_softmax_of_the_grades_as_target():
    lists = torch.cat([POSITIVE, NEGATIVE[:, :, 0]], dim=1)
    grades = torch.tensor([[3.0, 1.0, 0.0]] * 3)
    expected = float(-(grades.softmax(1) * lists.log_softmax(1)).sum(1).mean())
    found = value({"type": "ListNetLoss"}, score=grades[:, 0], negative_score=grades[:, 1:].flatten())
    assert found == pytest.approx(expected, rel=1e-6)


def test_margin_mse_compares_margins_of_scores():
    teacher, others = torch.tensor([1.0, 0.5, 0.9]), torch.tensor([0.1, 0.2, 0.3, 0.4, np.nan, 0.6])
    margin = (POSITIVE - NEGATIVE[:, :, 0]) - (teacher[:, None] - others.reshape(3, 2))
    expected = float(margin[~margin.isnan()].pow(2).mean())
    assert value({"type": "margin_mse"}, teacher=teacher, negative_teacher=others) == pytest.approx(expected, rel=1e-6)


def test_a_recipes_loss_compares_scores_as_they_are():
    assert validate(RerankerConfig, {}).loss.compares_by() == "dot"
    for name in ("listwise", "kl"):
        loss = validate(RerankerConfig, {"loss": {"type": name}}).loss
        assert (loss.similarity, loss.temperature) == ("dot", 1.0)
    assert validate(RerankerConfig, {"loss": {"temperature": 0.5}}).loss.temperature == 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": {"type": "infonce"}}, "no loss is called 'infonce'"),
        ({"loss": {"type": "margin_mse", "similarity": "cosine"}}, "a score has no cosine"),
        ({"loss": {"type": "listwise", "in_batch": True}}, "batch_negatives says how many"),
        ({"loop": {"parallel": "fsdp"}}, "loop.parallel: a reranker trains with ddp alone"),
        ({"loop": {"compile": True}}, "loop.compile: a reranker trains with false alone"),
        ({"validation": {"asynchronous": True}}, "a reranker is validated in turn"),
        ({"lora": {}}, "lora"),
    ],
)
def test_what_a_reranker_does_not_take_is_refused(settings, words):
    with pytest.raises((UserError, ValidationError), match=words):
        validate(RerankerConfig, settings)


def test_labelled_pairs_need_a_loss_that_knows_wrong_ones():
    with pytest.raises(UserError, match=r"loss listwise: takes every row for a right pair.*binary_cross_entropy"):
        check_loss(validate(RerankerConfig, {"rows": ["labelled"]}))
    check_loss(validate(RerankerConfig, {"rows": ["labelled"], "loss": {"type": "bce"}}))
