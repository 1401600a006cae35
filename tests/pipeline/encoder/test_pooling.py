"""Pooling modes: the vectors of Sentence Transformers' Pooling, whatever the padding, and one place to add a mode."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.encoder import packing
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.pooling import (
    POOLING_MODES,
    PackedStates,
    PaddedStates,
    PoolingMode,
    TokenStates,
    pool,
    pooling_config,
    read_pooling,
)

LENGTHS = [9, 7, 7, 4, 3]
TEXTS = ["wireless headphones", "x", "Bluetooth earbuds with a charging case " * 3, "running shoes"] * 3


def texts(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(length, 16, generator=generator, dtype=torch.float64).to(dtype) for length in LENGTHS]


def padded(rows: list[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """States [B, L, H] and mask [B, L], with what a model computes for padding: anything."""
    width = max(map(len, rows))
    states = torch.full((len(rows), width, rows[0].shape[1]), 99.0, dtype=rows[0].dtype)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for index, row in enumerate(rows):
        columns = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        states[index, columns], mask[index, columns] = row, 1
    return states, mask


def peer(mode: str, features: dict[str, torch.Tensor], skip: int) -> torch.Tensor:
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    module = modules.Pooling(16, mode, include_prompt=not skip)
    vectors: torch.Tensor = module({**features, "prompt_length": skip})["sentence_embedding"]
    return vectors


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    cosine = torch.nn.functional.cosine_similarity(ours, theirs)
    assert torch.allclose(cosine, torch.ones_like(cosine), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", list(POOLING_MODES))
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("skip", [0, 2])
def test_padded_texts_are_pooled_as_sentence_transformers_pools_them(mode, side, skip):
    states, mask = padded(texts(), side)
    ours = pool(PaddedStates(states, mask, torch.full((len(mask),), skip) if skip else None), mode)
    assert_same(ours, peer(mode, {"token_embeddings": states, "attention_mask": mask}, skip))


@pytest.mark.parametrize("mode", list(POOLING_MODES))
@pytest.mark.parametrize("skip", [0, 2])
def test_packed_texts_are_pooled_as_sentence_transformers_pools_them(mode, skip):
    layout = packing.Packing.from_lengths(LENGTHS, torch.device("cpu"))
    states = torch.cat(texts())
    ours = pool(PackedStates(states, layout, torch.full((len(LENGTHS),), skip) if skip else None), mode)
    features = {"token_embeddings": states[None], "cu_seq_lens_q": layout.boundaries["cu_seq_lens_q"].long()}
    assert_same(ours, peer(mode, features, skip))


@pytest.mark.parametrize("mode", list(POOLING_MODES))
def test_half_precision_is_pooled_in_float32(mode):
    states, mask = padded(texts(torch.bfloat16), "left")
    layout = packing.Packing.from_lengths(LENGTHS, torch.device("cpu"))
    ours = pool(PaddedStates(states, mask), mode)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, pool(PaddedStates(states.float(), mask), mode))
    torch.testing.assert_close(ours, pool(PackedStates(torch.cat(texts(torch.bfloat16)), layout), mode))


def test_modes_differ_and_a_text_shorter_than_its_prompt_stays_within_itself():
    states, mask = padded(texts(), "right")
    vectors = [pool(PaddedStates(states, mask), mode) for mode in POOLING_MODES]
    assert all(not torch.allclose(vector, other) for i, vector in enumerate(vectors) for other in vectors[:i])
    layout = packing.Packing.from_lengths(LENGTHS, torch.device("cpu"))
    for mode in ("cls", "lasttoken"):
        skip = torch.full((len(LENGTHS),), 4)
        packed = pool(PackedStates(torch.cat(texts()), layout, skip), mode)
        assert all(any(torch.equal(row, state) for state in text) for row, text in zip(packed, texts(), strict=True))


@pytest.mark.parametrize("mode", list(POOLING_MODES))
def test_a_text_that_is_nothing_but_its_prompt_has_a_vector_and_gradients_of_numbers(mode):
    """The last two of the texts; what is pooled over tokens is zero where none is left."""
    skip, layout = torch.full((len(LENGTHS),), 4), packing.Packing.from_lengths(LENGTHS, torch.device("cpu"))
    (states, mask), packed = padded(texts(), "left"), torch.cat(texts())
    for tokens in (
        PaddedStates(states.requires_grad_(), mask, skip),
        PackedStates(packed.requires_grad_(), layout, skip),
    ):
        vectors = torch.nn.functional.normalize(pool(tokens, mode), dim=-1)
        vectors.sum().backward()
        assert vectors.isfinite().all() and tokens.states.grad.isfinite().all() and tokens.states.grad.any()
        assert mode in ("cls", "lasttoken") or not vectors[3:].any()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, minilm) -> Path:
    path = tmp_path_factory.mktemp("pooling") / "model"
    Encoder.load(EncoderConfig(model=minilm, layers=1, max_length=32, dtype="float32"), "cpu").save(path)
    return path


def pooled_by(saved: Path, path: Path, mode: str) -> Path:
    shutil.copytree(saved, path)
    config = pooling_config(mode, 384, include_prompt=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("mode", list(POOLING_MODES))
@pytest.mark.parametrize("to_train", [False, True])
def test_a_model_of_each_mode_encodes_as_sentence_transformers_loads_it(saved, tmp_path, mode, to_train):
    peers = pytest.importorskip("sentence_transformers")
    path = pooled_by(saved, tmp_path / "model", mode)
    config = EncoderConfig(model=str(path), dtype="float32", backend="torch")
    encoder = Encoder.load(config, "cpu", to_train=to_train)
    assert encoder.packed == to_train and encoder.identity["pooling"] == mode
    ours = encoder.encode(TEXTS, "document")
    theirs = peers.SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    assert (ours * theirs).sum(axis=1).min() > 1 - 1e-6
    encoder.save(tmp_path / "again")
    again = peers.SentenceTransformer(str(tmp_path / "again"), device="cpu").encode(TEXTS)
    assert (ours * again).sum(axis=1).min() > 1 - 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_token_of_a_causal_model_is_that_of_padded_texts(minilm, tmp_path, side):
    peers = pytest.importorskip("sentence_transformers")
    from transformers import AutoTokenizer, Qwen2Config, Qwen2Model

    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    Qwen2Model(Qwen2Config(vocab_size=30522, num_hidden_layers=2, **size)).save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(minilm, padding_side=side).save_pretrained(tmp_path / "plain")
    encoder = Encoder.load(EncoderConfig(model=str(tmp_path / "plain"), max_length=32, dtype="float32"), "cpu")
    encoder.pooling = "lasttoken"
    encoder.save(tmp_path / "model")
    encoder = Encoder.load(
        EncoderConfig(model=str(tmp_path / "model"), dtype="float32", backend="torch", token_budget=4096), "cpu"
    )
    model = peers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert model.tokenizer.padding_side == side
    ours, theirs = encoder.encode(TEXTS, "document"), model.encode(TEXTS)
    assert (ours * theirs).sum(axis=1).min() > 1 - 1e-6
    assert (ours[:3] @ ours[:3].T).min() < 0.99, "the texts are told apart"


def test_an_unknown_mode_is_refused_with_the_choices(saved, tmp_path):
    states, mask = padded(texts(), "right")
    with pytest.raises(UserError, match="pooling 'last' is not supported; choose from cls, max, mean"):
        pool(PaddedStates(states, mask), "last")
    path = pooled_by(saved, tmp_path / "model", "mean")
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_median": True}))
    with pytest.raises(UserError, match=r"model .*: pooling 'pooling_mode_median' is not supported; choose from"):
        Encoder.load(EncoderConfig(model=str(path)), "cpu")
    with pytest.raises(UserError, match="pooling 'median' is not supported"):
        read_pooling({"pooling_mode": ["cls", "median"]})
    with pytest.raises(UserError, match="pooling: pooled_by has no meaning here"):
        read_pooling({"pooling_mode": "cls", "pooled_by": "cls"})


def test_settings_of_every_version_of_sentence_transformers_are_read():
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    assert set(POOLING_MODES) == set(modules.Pooling.POOLING_MODES)
    for mode in POOLING_MODES:
        assert read_pooling(pooling_config(mode, 8, include_prompt=True)) == mode
        assert read_pooling({"embedding_dimension": 8, "pooling_mode": mode}) == mode
    assert read_pooling({"word_embedding_dimension": 8}) == "mean"


def first_and_last(tokens: TokenStates) -> torch.Tensor:
    return tokens.first() + tokens.last()


def test_a_new_mode_is_one_function_and_one_entry(saved, tmp_path, monkeypatch):
    """Read, saved, padded, packed and computed by a runtime without another line."""
    monkeypatch.setitem(POOLING_MODES, "first_and_last", PoolingMode(first_and_last, "pooling_mode_first_and_last"))
    path = pooled_by(saved, tmp_path / "model", "first_and_last")
    vectors = []
    for settings, to_train in (({}, False), ({}, True), ({"backend": "openvino"}, False)):
        if settings:
            pytest.importorskip("openvino")
        config = EncoderConfig(**{"model": str(path), "dtype": "float32", "backend": "torch", **settings})
        vectors.append(Encoder.load(config, "cpu", to_train=to_train).encode(TEXTS, "query"))
    for other in vectors[1:]:
        np.testing.assert_allclose(other, vectors[0], atol=2e-5)
    Encoder.load(EncoderConfig(model=str(path)), "cpu").save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "1_Pooling" / "config.json").read_text())["pooling_mode_first_and_last"]
    monkeypatch.delitem(POOLING_MODES, "first_and_last")
    with pytest.raises(UserError, match="'pooling_mode_first_and_last' is not supported"):
        Encoder.load(EncoderConfig(model=str(path)), "cpu")
