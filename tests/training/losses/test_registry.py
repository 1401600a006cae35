"""Names of losses in recipes: ours, those that Sentence Transformers has for them, and what a wrong one is told."""

import pytest
from pydantic import TypeAdapter, ValidationError

from training.losses.any_loss import AnyLoss
from training.losses.registry import ALIASES, SYMMETRIC

peer = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
ANY_LOSS = TypeAdapter(AnyLoss)

NAMES = {
    "MultipleNegativesRankingLoss": "infonce",
    "MultipleNegativesSymmetricRankingLoss": "infonce",
    "GISTEmbedLoss": "infonce",
    "CoSENTLoss": "cosent",
    "AnglELoss": "angle",
    "ContrastiveLoss": "contrastive",
    "OnlineContrastiveLoss": "online_contrastive",
    "CosineSimilarityLoss": "cosine",
    "TripletLoss": "triplet",
    "BatchAllTripletLoss": "batch_triplet",
    "BatchHardTripletLoss": "batch_triplet",
    "BatchSemiHardTripletLoss": "batch_triplet",
    "BatchHardSoftMarginTripletLoss": "batch_triplet",
    "MarginMSELoss": "margin_mse",
    "DistillKLDivLoss": "kl",
    "MatryoshkaLoss": "matryoshka",
}


@pytest.mark.parametrize("name", NAMES)
def test_classes_of_sentence_transformers_are_names_of_losses(name: str):
    assert hasattr(peer, name)
    assert ANY_LOSS.validate_python({"type": name}).type == NAMES[name]


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_stands_for_its_settings(name: str):
    assert ANY_LOSS.validate_python({"type": name}) == ANY_LOSS.validate_python(ALIASES[name])


@pytest.mark.parametrize("name", ["InfoNCE", "mnrl", "MNRL", "multiple-negatives-ranking", "MultipleNegativesRanking"])
def test_spelling_does_not_matter_and_settings_go_along(name: str):
    loss = ANY_LOSS.validate_python({"type": name, "temperature": 0.5})
    assert loss.model_dump(include={"type", "temperature"}) == {"type": "infonce", "temperature": 0.5}


def test_settings_of_an_alias_can_be_overruled():
    loss = ANY_LOSS.validate_python({"type": "batch_all_triplet", "mining": "hard"})
    assert loss == ANY_LOSS.validate_python({"type": "batch_triplet", "mining": "hard"})


def test_aliases_hold_inside_other_losses():
    inner = {"type": "weighted_sum", "losses": [{"loss": {"type": "mnrl"}}, {"loss": {"type": "CoSENTLoss"}}]}
    loss = ANY_LOSS.validate_python({"type": "MatryoshkaLoss", "loss": inner})
    assert [term.loss.type for term in loss.loss.losses] == ["infonce", "cosent"]


def test_symmetric_ranking_is_both_directions():
    loss = ANY_LOSS.validate_python({"type": "MultipleNegativesSymmetricRankingLoss"})
    assert {name: getattr(loss, name) for name in SYMMETRIC} == SYMMETRIC


def test_a_wrong_name_is_told_the_nearest_and_all_others():
    with pytest.raises(ValidationError) as caught:
        ANY_LOSS.validate_python({"type": "cosentt"})
    message = str(caught.value)
    assert "no loss is called 'cosentt'; did you mean cosent?" in message
    assert "weighted_sum" in message and "also known as" in message and "multiple_negatives_ranking" in message
