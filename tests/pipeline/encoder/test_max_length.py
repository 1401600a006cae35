"""A length for queries and another for documents: in every kind of encoder, saved, and part of a model's identity."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.embedding.job import EmbedConfig
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.layout import SETTINGS_FILE
from pipeline.encoder.truncation import Truncation
from tests.support import zoo

TEXT = "Bluetooth EARBUDS with a charging case. " * 4


def load(path: str, **more: object) -> Encoder:
    return Encoder.load(EncoderConfig.model_validate({"model": path, "dtype": "float32", **more}), "cpu")


def lengths(encoder: Encoder) -> list[int]:
    return [len(encoder.tokenize([TEXT], role)[0]) for role in ("query", "document")]


@pytest.mark.parametrize("layout", ["bert, mean", "static", "model2vec", "router", "sentence-t5"])
def test_each_role_has_its_length_and_keeps_it(tmp_path: Path, layout: str):
    path = zoo.make(layout, tmp_path / "zoo")
    encoder = load(path, max_length={"query": 8, "document": 24})
    assert lengths(encoder) == [8, 24] and encoder.max_length == 24
    assert Truncation.measure(encoder, [TEXT], "query").max_length == 8
    same = load(path, max_length=24)
    assert np.allclose(encoder.encode([TEXT], "document"), same.encode([TEXT], "document"), atol=1e-6)
    assert encoder.identity["max_length"] == "document 24, query 8" and same.identity["max_length"] == "24"

    encoder.save(tmp_path / "saved")
    again = load(str(tmp_path / "saved"))
    assert lengths(again) == [8, 24] and again.identity["max_length"] == encoder.identity["max_length"]
    for requested, found in ((16, [16, 16]), ({"query": 12}, [12, 24])):
        assert lengths(load(str(tmp_path / "saved"), max_length=requested)) == found
    same.save(tmp_path / "same")
    assert "max_seq_lengths" not in json.loads((tmp_path / "same" / SETTINGS_FILE).read_text())


def test_a_role_alone_leaves_the_other_what_the_model_states(tmp_path: Path):
    path = zoo.make("bert, mean", tmp_path / "zoo")
    stated = load(path, max_length=20)
    stated.save(tmp_path / "stated")
    longer = load(str(tmp_path / "stated"), max_length={"query": 40})
    longer.save(tmp_path / "longer")
    assert lengths(longer) == lengths(load(str(tmp_path / "longer"))) == [40, 20]


def test_sentence_transformers_reads_the_directory_at_the_longest(tmp_path: Path):
    peers = pytest.importorskip("sentence_transformers")
    encoder = load(zoo.make("bert, mean", tmp_path / "zoo"), max_length={"query": 8, "document": 24})
    encoder.save(tmp_path / "saved")
    model = peers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert model.max_seq_length == 24
    assert np.allclose(model.encode([TEXT]), encoder.encode([TEXT], "document"), atol=1e-5)


def _longer_than_the_tokenizer_says(path: Path) -> None:
    zoo.edit(path / "sentence_bert_config.json", max_seq_length=128)


def _longer_than_rotary_positions(path: Path) -> None:
    zoo.edit(path / "config.json", max_position_embeddings=40)
    zoo.edit(path / "sentence_bert_config.json", max_seq_length=64)


def _by_options_of_the_tokenizer(path: Path) -> None:
    zoo.edit(path / "sentence_bert_config.json", max_seq_length=50, tokenizer_args={"model_max_length": 10})


@pytest.mark.parametrize(
    ("layout", "change", "length"),
    [
        ("bert, mean", _longer_than_the_tokenizer_says, 128),
        ("sentence-t5", _longer_than_the_tokenizer_says, 128),
        ("nomic_bert, truncated, dot", _longer_than_rotary_positions, 64),
        ("bert, mean", _by_options_of_the_tokenizer, 10),
    ],
)
def test_a_stated_length_is_that_of_sentence_transformers_and_is_kept(tmp_path: Path, layout, change, length):
    peers = pytest.importorskip("sentence_transformers")
    path = Path(zoo.make(layout, tmp_path / "zoo"))
    change(path)
    encoder = load(str(path))
    model = peers.SentenceTransformer(str(path), device="cpu")
    assert encoder.max_length == model.max_seq_length == length
    assert np.allclose(model.encode_document([TEXT]), encoder.encode([TEXT], "document"), atol=1e-5)
    encoder.save(tmp_path / "saved")
    name = "sentence_bert_config.json"
    assert json.loads((path / name).read_text()) == json.loads((tmp_path / "saved" / name).read_text())
    load(str(path), max_length=8).save(tmp_path / "short")
    assert peers.SentenceTransformer(str(tmp_path / "short"), device="cpu").max_seq_length == 8


def test_a_mistake_is_one_line(tmp_path: Path):
    path = zoo.make("bert, mean", tmp_path / "zoo")
    with pytest.raises(UserError, match=r"max_length 100 is beyond the model's 64 positions"):
        load(path, max_length={"document": 100})
    for wrong in ({"max_length": {"querry": 8}}, {"max_length": {"query": 2}}, {"max_length": 3}):
        with pytest.raises(UserError, match="max_length"):
            validate(EmbedConfig, {"encoder": wrong})
