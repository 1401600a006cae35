"""What a step asks of every architecture: gradient checkpointing without other gradients, and dropout as it is set."""

from pathlib import Path

import pytest
import torch

from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support import zoo
from tests.support.loop import make_parts
from training.loop.checkpointing import checkpoint_layers
from training.loop.step import LoopConfig, TrainStep
from training.losses.infonce import InfoNCE


def gradient(encoder: Encoder) -> tuple[torch.Tensor, int]:
    """Flat gradient of the vectors of some texts, and how many numbers autograd kept for it."""
    encoder.zero_grad()
    torch.manual_seed(3)  # of dropout
    tokens, sizes = encoder.tokenize(zoo.TEXTS, "document"), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        loss = encoder.encode_tokens(tokens)[:, :7].sum()
    loss.backward()
    grads = [value.grad.reshape(-1) for value in encoder.parameters() if value.grad is not None]
    return torch.cat(grads), sum(sizes)


def load(family: str, folder: Path) -> Encoder:
    config = EncoderConfig(model=zoo.base(family, folder), dtype="float32")
    return Encoder.load(config, "cpu", to_train=True).double().train()


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_family_keeps_fewer_activations_and_its_gradients(tmp_path: Path, family: str):
    encoder = load(family, tmp_path)
    plain, saved = gradient(encoder)
    checkpoint_layers(encoder)
    result, fewer = gradient(encoder)
    assert fewer < 0.6 * saved, "only what enters a layer is kept"
    assert (result - plain).norm() <= 1e-9 * plain.norm()


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_the_dropout_of_a_run_is_that_of_every_family(tmp_path: Path, family: str):
    rows = make_parts(8, 8, model=zoo.base("bert", tmp_path / "rows"))[1]
    encoder = load(family, tmp_path / "model")
    tokens = encoder.tokenize(zoo.TEXTS, "document")
    for rate in (0.0, 0.5):
        settings = LoopConfig(batch_size=8, precision="float32", dropout=rate)
        TrainStep(encoder, InfoNCE(), rows, settings).module.train()
        result = [encoder.encode_tokens(tokens).detach() for _ in range(2)]
        assert torch.equal(*result) == (rate == 0.0), "only dropout is random"
