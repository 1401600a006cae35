"""A zoo of published layouts, small and random: each encodes, trains and is saved as Sentence Transformers loads it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.progress import say_once
from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support import zoo

sentence_transformers = pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directory of a layout by its name, made once."""
    made: dict[str, str] = {}

    def model(layout: str) -> str:
        if layout not in made:
            made[layout] = zoo.make(layout, tmp_path_factory.mktemp("zoo"))
        return made[layout]

    return model


def load(path: str, *, to_train: bool = False, **settings) -> Encoder:
    return Encoder.load(
        EncoderConfig(model=path, dtype="float32", backend="torch", **settings), "cpu", to_train=to_train
    )


def assert_agrees(encoder: Encoder, path: str | Path) -> None:
    """Both roles, prompts included, are those of SentenceTransformer(path): vectors, width and length."""
    peer = sentence_transformers.SentenceTransformer(str(path), device="cpu")
    for role, encode in (("query", peer.encode_query), ("document", peer.encode_document)):
        ours, theirs = encoder.encode(zoo.TEXTS, role), encode(zoo.TEXTS)
        assert ours.shape == theirs.shape == (len(zoo.TEXTS), encoder.dim)
        lengths = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
        assert ((ours * theirs).sum(axis=1) / lengths[0] / lengths[1]).min() >= 0.99999, role
        np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-3)
        assert encoder.similarity == peer.similarity_fn_name


@pytest.mark.parametrize("layout", zoo.LAYOUTS)
def test_a_layout_is_read_and_saved_as_sentence_transformers_has_it(models, layout, tmp_path):
    path = models(layout)
    encoder = load(path)
    assert_agrees(encoder, path)
    assert any(weight.requires_grad for weight in encoder.parameters()), "it can be trained"
    different = encoder.encode(zoo.TEXTS[:7], "document")
    different = different / np.linalg.norm(different, axis=1, keepdims=True)
    assert (different @ different.T - np.eye(7)).max() < 0.9999, "the texts are told apart"
    encoder.save(tmp_path / "again")
    assert_agrees(encoder, tmp_path / "again")
    again = load(str(tmp_path / "again"))
    np.testing.assert_array_equal(again.encode(zoo.TEXTS, "query"), encoder.encode(zoo.TEXTS, "query"))
    before, after = (json.loads((Path(each) / "modules.json").read_text()) for each in (path, tmp_path / "again"))
    assert [module["type"] for module in before] == [module["type"] for module in after]
    stated = json.loads((Path(path) / "config_sentence_transformers.json").read_text())
    assert stated.items() <= json.loads((tmp_path / "again/config_sentence_transformers.json").read_text()).items()


UNPACKED = {"mpnet", "deberta", "t5"}
MODES = ("mean", "cls", "max", "weightedmean", "lasttoken")


def encoded(encoder: Encoder) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Vectors of both roles, and the gradients of a sum that tells all their values apart."""
    encoder.zero_grad()
    tokens = [*encoder.tokenize(zoo.TEXTS, "query"), *encoder.tokenize(zoo.TEXTS, "document")]
    vectors = encoder.encode_tokens(tokens, [2] * len(tokens))
    weights = torch.arange(vectors.numel(), dtype=vectors.dtype).reshape(vectors.shape).sin()
    (vectors * weights).sum().backward()
    return vectors.detach(), {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def encoded_again(encoder: Encoder) -> torch.Tensor:
    tokens = [*encoder.tokenize(zoo.TEXTS, "query"), *encoder.tokenize(zoo.TEXTS, "document")]
    return encoder.encode_tokens(tokens, [2] * len(tokens))


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_packed_texts_are_padded_texts_in_vectors_and_gradients(family, tmp_path, capsys):
    path = zoo.base(family, tmp_path)
    settings = {"model": path, "dtype": "float32", "token_budget": 200}
    padded = Encoder.load(EncoderConfig(**settings, attention="eager"), "cpu").eval()
    packed = Encoder.load(EncoderConfig(**settings), "cpu", to_train=True).eval()
    assert packed.packed == (family not in UNPACKED)
    say_once.cache_clear()
    Encoder.load(EncoderConfig(**settings), "cpu", to_train=True)
    assert ("texts are padded: packing does not know models of type" in capsys.readouterr().err) == (not packed.packed)
    for mode in MODES:
        padded.pooling = packed.pooling = mode
        (expected, gradients), (vectors, others) = encoded(padded), encoded(packed)
        torch.testing.assert_close(vectors, expected, rtol=0, atol=2e-6)  # vectors of length 1
        assert gradients.keys() == others.keys() and len(gradients) >= 20
        largest = max(gradient.norm() for gradient in gradients.values())
        for name, gradient in gradients.items():
            assert (others[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * largest, f"{mode} {name}"
        with torch.inference_mode():  # attention is fused
            torch.testing.assert_close(encoded_again(packed), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_the_first_layers_of_every_family_are_saved_as_sentence_transformers_loads_them(family, tmp_path):
    path = zoo.base(family, tmp_path / "base")
    whole, first = load(path), load(path, layers=2)
    held = whole.transformer.state_dict()
    assert all(torch.equal(value, held[name]) for name, value in first.transformer.state_dict().items())
    assert np.abs(first.encode(zoo.TEXTS, "query") - whole.encode(zoo.TEXTS, "query")).max() > 1e-3
    first.save(tmp_path / "first")
    assert_agrees(first, tmp_path / "first")
    assert load(str(tmp_path / "first")).transformer.config.num_hidden_layers == 2
