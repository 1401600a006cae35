"""Packed texts: the vectors and gradients of the padded way, to rounding of float64."""

import json

import numpy as np
import pytest
import torch

from pipeline.encoder import packing
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.pooling import POOLING_MODES
from pipeline.encoder.token_batches import packed_batches

LENGTHS = [5, 31, 1, 8, 8, 30, 2, 8, 17, 3]


def transformer(kind: str, **more: int):
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    size = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    size |= {"intermediate_size": 32, "max_position_embeddings": 64}
    config = AutoConfig.for_model(kind, **size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more)
    return AutoModel.from_config(config, attn_implementation="eager").double()


class Tokenizer:
    """What an encoder asks of one."""

    pad_token_id = 1
    model_input_names = ("input_ids", "attention_mask")


def encoder(kind: str, pooling: str) -> Encoder:
    identity: dict[str, str] = {}
    return Encoder(
        transformer(kind, pad_token_id=1),
        Tokenizer(),
        pooling=pooling,
        include_prompt=False,
        prompts={},
        max_lengths={"query": 32, "document": 32},
        token_budget=70,
        identity=identity,
    )


def texts() -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(2, 50, size=length).tolist() for length in LENGTHS]


def encoded(model: Encoder, skip: list[int] | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    vectors = model.encode_tokens(texts(), skip)
    (
        vectors * torch.linspace(-1, 1, vectors.numel(), dtype=vectors.dtype).reshape(vectors.shape).sin()
    ).sum().backward()
    return vectors.detach(), [value.grad for value in model.parameters() if value.grad is not None]


@pytest.mark.parametrize("pooling", list(POOLING_MODES))
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "camembert"])
@pytest.mark.parametrize("skip", [None, [0, 2, 0, 1, 3, 0, 1, 7, 0, 0]])
def test_vectors_and_gradients_are_those_of_padded_texts(kind, pooling, skip):
    padded, packed = encoder(kind, pooling), encoder(kind, pooling)
    assert packing.enable_packing(packed.transformer)
    packed.packed = True
    (expected, gradients), (vectors, others) = encoded(padded, skip), encoded(packed, skip)
    assert vectors.dtype == torch.float64
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-12)
    assert len(others) == len(gradients) > 20
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-9, atol=1e-12)
    with torch.inference_mode():  # attention is fused
        torch.testing.assert_close(packed.eval().encode_tokens(texts(), skip), expected, rtol=0, atol=1e-12)


def test_padding_tokens_within_a_text_are_not_counted_as_positions():
    padded, packed = encoder("xlm-roberta", "mean"), encoder("xlm-roberta", "mean")
    assert packing.enable_packing(packed.transformer)
    packed.packed = True
    rows = [[1, 5, 1, 1, 7, 9], [4, 1, 6], [8, 9]]  # 1 is the padding token, which a text may name
    with torch.inference_mode():
        expected, found = (model.eval().encode_tokens(rows) for model in (padded, packed))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_other_architectures_stay_padded():
    model = transformer("mpnet")
    assert not packing.enable_packing(model)
    assert model.config._attn_implementation == "eager"


def test_groups_hold_every_token_once_with_little_padding():
    lengths = sorted(np.random.default_rng(0).integers(1, 129, size=300).tolist(), reverse=True)
    layout = packing.Packing.from_lengths(lengths, torch.device("cpu"))
    assert sum(group.rows for group in layout.groups) == 300
    assert sum(group.tokens for group in layout.groups) == sum(lengths) == len(layout.positions)
    assert all(group.tokens >= 0.85 * group.rows * group.length for group in layout.groups)
    assert layout.positions[layout.starts].tolist() == [0] * 300


def test_dropout_of_attention_is_drawn():
    torch.manual_seed(1)
    query, key, value = torch.randn(3, 1, 2, 12, 4)
    group = packing.Packing.from_lengths([7, 5], torch.device("cpu")).groups
    undropped, _ = packing.packed_attention(torch.nn.Identity(), query, key, value, None, 0.5, groups=group)
    dropped, _ = packing.packed_attention(torch.nn.Identity(), query, key, value, None, 0.5, 0.5, groups=group)
    assert undropped.shape == dropped.shape == (1, 12, 8)
    assert not torch.allclose(undropped, dropped)


def test_chunks_by_sum_keep_the_budget_and_every_text():
    lengths = np.random.default_rng(0).integers(1, 100, size=200).tolist()
    batches = packed_batches(lengths, 300)
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    assert all(sum(lengths[i] for i in chunk) <= 300 for chunk in batches)
    assert packed_batches([5, 900, 5], 100)[0].tolist() == [1]
    assert packed_batches([], 100) == []


def test_a_model_trained_packed_is_saved_as_any_other(tmp_path):
    ours = Encoder.load(EncoderConfig(layers=2, dtype="float32"), "cpu", to_train=True)
    assert ours.packed
    ours.save(tmp_path / "model")
    assert packing.NAME not in json.dumps(json.loads((tmp_path / "model" / "config.json").read_text()))
    again = Encoder.load(EncoderConfig(model=str(tmp_path / "model"), dtype="float32"), "cpu")
    texts = ["wireless headphones", "Bluetooth earbuds with a case", "", "running shoes " * 30]
    assert np.abs(ours.encode(texts, "query") - again.encode(texts, "query")).max() < 1e-6
