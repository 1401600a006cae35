"""A cross-encoder to train: pairs joined as the tokenizer does, a seeded head, a directory for every reader."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.encoder.cross_encoder import CrossEncoderConfig, Reranker
from pipeline.encoder.pair_classifier import PairClassifier, PairClassifierConfig
from pipeline.encoder.pair_tokens import PairTemplate, longest_first
from tests.support.mining import reranker_directory
from tests.support.rerankers import load

WORDS = ["alpha", "running", "shoe", "headphones", "Mülheim", "kettle", "a", "b", "unbelievable", "3.5", "mm"]
LEFTS = ["wireless headphones", "a kettle " * 30, "running shoe"]
RIGHTS = ["Bluetooth earbuds with a case " * 20, "steel", "a very long text about shoes"]


@pytest.mark.parametrize("length", [8, 9, 16, 33])
def test_pairs_are_joined_and_cut_as_the_tokenizer_does(minilm, length):
    from transformers import AutoTokenizer

    tokenizer, draw = AutoTokenizer.from_pretrained(minilm), random.Random(length)
    template = PairTemplate.of(tokenizer, length)
    texts = [[" ".join(draw.choices(WORDS, k=draw.randint(0, 25))) for _ in range(60)] for _ in range(2)]
    expected = tokenizer(*texts, truncation="longest_first", max_length=length)
    parts = [tokenizer(side, add_special_tokens=False)["input_ids"] for side in texts]
    ids, starts = template.join_all(*parts)
    assert ids == expected["input_ids"]
    types = [[int(place >= start) for place in range(len(row))] for row, start in zip(ids, starts, strict=True)]
    assert types == expected["token_type_ids"]


def test_a_query_of_less_than_half_the_room_stays_whole():
    assert longest_first(10, 500, 40) == (10, 30)
    assert longest_first(500, 10, 40) == (30, 10)
    assert longest_first(500, 400, 41) == (21, 20)


def test_the_head_of_an_encoder_follows_from_the_seed(minilm):
    config = PairClassifierConfig(model=minilm, max_length=64)
    one, two, other = (PairClassifier.load(config, seed=seed) for seed in (1, 1, 2))
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    assert all(same)
    differing = [
        name for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True) if not torch.equal(a, b)
    ]
    assert differing == ["transformer.classifier.weight"]


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_a_saved_directory_scores_the_same_everywhere(minilm, tmp_path, activation):
    peer = pytest.importorskip("sentence_transformers")
    config = PairClassifierConfig(model=minilm, max_length=48, activation=activation)
    model = PairClassifier.load(config, seed=4)
    model.save(str(tmp_path / "saved"), "# a card")
    logits = model.score(LEFTS, RIGHTS)
    exact = CrossEncoderConfig(model=str(tmp_path / "saved"), activation="identity", dtype="float32")
    np.testing.assert_allclose(Reranker(exact, "cpu").score(LEFTS, RIGHTS), logits, atol=1e-5)
    theirs = peer.CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert theirs.max_seq_length == 48
    expected = 1 / (1 + np.exp(-logits)) if activation == "sigmoid" else logits
    found = theirs.predict(list(zip(LEFTS, RIGHTS, strict=True)), convert_to_numpy=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (tmp_path / "saved" / "README.md").read_text() == "# a card"
    again = PairClassifier.load(PairClassifierConfig(model=str(tmp_path / "saved")), seed=9)
    np.testing.assert_allclose(again.score(LEFTS, RIGHTS), logits, atol=1e-6, err_msg="a reranker keeps its head")


def test_a_logit_is_exact_under_autocast(minilm, tmp_path):
    model = load(tmp_path, minilm)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        rows = model.template.join_all(model.tokenize(LEFTS, "query"), model.tokenize(RIGHTS, "document"))
        logits = model.encode_tokens(*rows)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_what_cannot_be_trained_is_named(minilm, tmp_path):
    three = reranker_directory(tmp_path / "three", minilm, 3)
    with pytest.raises(UserError, match=r"three: has 3 labels; one of a single label can be trained, or an encoder"):
        PairClassifier.load(PairClassifierConfig(model=three))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((Path(minilm) / "config.json").read_text())
    with pytest.raises(UserError, match=r"pickled: has no \*.safetensors"):
        PairClassifier.load(PairClassifierConfig(model=str(pickled)))
