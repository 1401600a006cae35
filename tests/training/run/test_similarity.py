"""A model made for inner products is trained on inner products, unless the recipe says otherwise."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipeline.encoder.encoder import Encoder
from tests.support.runs import settings
from training.loop.step import compared_otherwise
from training.losses.infonce import InfoNCE
from training.losses.listwise import Listwise
from training.losses.loss import local_batch
from training.losses.matryoshka import Matryoshka
from training.run.similarity import follow_similarity


def followed(tmp_path, loss: dict[str, Any] | None, *, similarity: str = "dot", normalize: bool = False) -> Any:
    """The loss that a run on a model trains by."""
    model = SimpleNamespace(similarity=similarity, normalize=normalize)
    config = settings(tmp_path, **({} if loss is None else {"loss": loss}))
    return follow_similarity(config, cast(Encoder, model)).loss


@pytest.mark.parametrize(
    "loss", [None, {}, {"type": "infonce"}, {"type": "mnrl"}, {"type": "kl"}, {"type": "listwise"}]
)
def test_what_a_recipe_leaves_open_follows_the_model_and_is_said(tmp_path, capsys, loss):
    found = followed(tmp_path, loss)
    assert (found.similarity, found.temperature) == ("dot", 1.0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"loss {found.type} compares by dot with temperature 1, as the model is" in said
    again = settings(tmp_path, loss=found.model_dump())
    assert follow_similarity(again, cast(Encoder, SimpleNamespace(similarity="cosine", normalize=True))).loss == found


def test_what_a_recipe_sets_stays(tmp_path, capsys):
    assert followed(tmp_path, {"similarity": "cosine"}).similarity == "cosine"
    assert followed(tmp_path, {}, similarity="cosine") == InfoNCE()
    assert capsys.readouterr().err == ""
    assert followed(tmp_path, {"temperature": 0.3}).temperature == 0.3
    assert followed(tmp_path, {}, normalize=True).temperature == 0.05  # of unit vectors both similarities are one
    assert followed(tmp_path, {"type": "margin_mse"}).similarity == "dot"


def test_losses_made_of_others_follow_in_all_their_parts(tmp_path, capsys):
    terms = [{"loss": {"type": "infonce", "temperature": 0.1}}, {"loss": {"type": "kl", "similarity": "cosine"}}]
    both = {"type": "weighted_sum", "losses": terms}
    found = followed(tmp_path, {"type": "matryoshka", "dims": [8], "loss": both}).loss.losses
    assert [(term.loss.similarity, term.loss.temperature) for term in found] == [("dot", 0.1), ("cosine", 0.05)]
    by_source = followed(
        tmp_path,
        {"type": "by_source", "sources": {"faq": {"type": "infonce"}, "sts": {"type": "cosent"}}, "others": both},
    )
    assert by_source.sources["faq"].similarity == by_source.others.losses[0].loss.similarity == "dot"
    assert "infonce compares by dot with temperature 1, infonce compares by dot with temp" in capsys.readouterr().err
    assert compared_otherwise(by_source, "dot") == ["cosent by cosine", "kl by cosine"]
    assert compared_otherwise(InfoNCE(similarity="dot"), "cosine") == ["infonce by dot"]


def test_inner_products_are_of_vectors_as_they_are():
    torch.manual_seed(2)
    query, positive, negative = 3 * torch.randn(4, 6), 2 * torch.randn(4, 6), torch.randn(4, 2, 6)
    score = torch.tensor([2.0, 1.0, 3.0, 1.0])
    batch = local_batch(query, positive, negative, score=score)
    documents = torch.cat([positive[:, None], negative], dim=1)
    expected = -(query[:, None] * documents).sum(2).log_softmax(dim=1)[:, 0].mean()
    dot = {"similarity": "dot", "temperature": 1.0}
    torch.testing.assert_close(Listwise(**dot)(batch, {}).loss, expected)
    cut = local_batch(query[:, :3], positive[:, :3], negative[..., :3])
    for similarity in ("dot", "cosine"):
        loss = InfoNCE(similarity=similarity, temperature=1.0)
        torch.testing.assert_close(Matryoshka(dims=[3], loss=loss)(batch, {}).loss, loss(cut, {}).loss)
