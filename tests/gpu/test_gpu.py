"""What only a GPU can show: its kernels agree with the CPU's, dropout is replayed on it, losses are exact on it.

Run with `TRIPLETAIL_MODEL=DIRECTORY` where the sample model's package is not installed; Ray is not needed.
"""

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.encoder.encoder import Encoder, EncoderConfig
from training.data.rows import rows_from
from training.loop.checkpoint import RunStore
from training.loop.gradient_cache import GradientCache, PlainPass
from training.loop.step import LoopConfig, TrainStep
from training.loop.trainer import Trainer
from training.losses.infonce import InfoNCE
from training.losses.loss import local_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

WORDS = ["wireless", "headphones", "earbuds", "running", "shoes", "kitchen", "knife", "garden", "chair", "river"]


def sentences(count, most=40):
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, rng.integers(2, most))) for _ in range(count)]


def cosines(left, right):
    return (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


@pytest.mark.parametrize(
    ("dtype", "attention", "least"),
    [
        ("float32", "sdpa", 0.9999999),
        ("float16", "sdpa", 0.9999),
        ("bfloat16", "sdpa", 0.999),
        ("bfloat16", "varlen", 0.999),
        ("float16", "varlen", 0.9999),
        ("bfloat16", "auto", 0.999),
    ],
)
def test_vectors_are_those_of_the_cpu(minilm, dtype, attention, least):
    texts = sentences(300)
    plain = Encoder.load(EncoderConfig(model=minilm, dtype="float32", backend="torch"), "cpu").encode(texts, "query")
    config = EncoderConfig(model=minilm, dtype=dtype, attention=attention, token_budget=1024)
    found = Encoder.load(config, "cuda").encode(texts, "query")
    assert cosines(plain, found).min() >= least
    if dtype == "float32":
        np.testing.assert_allclose(found, plain, atol=2e-6)


@pytest.mark.parametrize(
    ("precision", "attention"),
    [
        (torch.float32, "sdpa"),
        (torch.float32, "eager"),
        (torch.bfloat16, "sdpa"),
        (torch.bfloat16, "eager"),
        (torch.bfloat16, "varlen"),
        (torch.float16, "varlen"),
        (torch.float32, "varlen"),
    ],
)
def test_dropout_is_replayed_on_a_gpu(minilm, precision, attention):
    """The cached gradient is that of a plain step in the same chunks, with dropout of states and attention."""
    config = EncoderConfig(model=minilm, layers=2, dtype="float32", attention=attention, token_budget=600)
    encoder = Encoder.load(config, "cuda", to_train=True).train()
    tokens = encoder.tokenize(sentences(64), "query")
    skip, loss = [0] * len(tokens), InfoNCE()
    assert len(encoder.split_batches([len(row) for row in tokens], 600)) > 2

    def encode(some, skips):
        with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
            return encoder.encode_tokens(some, skips)

    def gradient(passes, seed):
        torch.manual_seed(seed)
        encoder.zero_grad(set_to_none=True)
        vectors = passes(tokens, skip)
        share = loss(local_batch(vectors[:32], vectors[32:]), {})
        passes.backward(share.loss)
        found = [value.grad.reshape(-1) for value in encoder.parameters() if value.grad is not None]
        return torch.cat(found).double(), torch.rand(1, device="cuda")

    plain, after = gradient(PlainPass(encode, {}), 5)
    cached, too = gradient(GradientCache(encode, encoder, {}, 600, encoder.split_batches), 5)
    other, _ = gradient(PlainPass(encode, {}), 6)
    near = 1e-5 if precision == torch.float32 else 2e-2
    assert (cached - plain).norm() <= near * plain.norm()
    assert torch.equal(after, too), "random numbers after the step"
    assert (other - plain).norm() > 5 * near * plain.norm(), "the dropout of this test does something"


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_gradients_of_packed_texts_are_those_of_padded_ones(minilm, dropout):
    """Without dropout to bfloat16's rounding; with dropout in attention alone the mean over draws comes near."""
    found = {}
    for attention, precision in (("sdpa", torch.float32), ("varlen", torch.bfloat16)):
        config = EncoderConfig(model=minilm, layers=2, dtype="float32", attention=attention)
        encoder = Encoder.load(config, "cuda", to_train=True).train()
        for name, part in encoder.named_modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = dropout if "attention.self" in name else 0.0
        tokens = encoder.tokenize(sentences(48), "query")
        draws = []
        for seed in range(30 if dropout else 1):
            torch.manual_seed(seed)
            encoder.zero_grad(set_to_none=True)
            with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
                vectors = encoder.encode_tokens(tokens, [0] * len(tokens)).float()
            InfoNCE()(local_batch(vectors[:24], vectors[24:]), {}).loss.backward()
            draws.append(torch.cat([x.grad.reshape(-1) for x in encoder.parameters() if x.grad is not None]).double())
        found[attention] = torch.stack(draws)
    padded, packed = found["sdpa"].mean(0), found["varlen"].mean(0)
    assert (padded - packed).norm() <= (0.15 if dropout else 0.03) * padded.norm()
    if dropout:
        spread = [(draws - draws.mean(0)).norm(dim=1).mean() for draws in found.values()]
        assert 0.8 < spread[0] / spread[1] < 1.25, "as much is dropped"


def test_a_tiled_loss_is_the_dense_one_on_a_gpu():
    """Value and gradient with every mask in play, to float32's rounding against float64."""
    generator = torch.Generator().manual_seed(4)
    query, positive, negative = (torch.randn(n, 64, generator=generator) for n in (700, 700, 1400))
    ids = torch.randint(0, 300, (700,), generator=generator)
    found = {}
    for device, dtype, tile in (
        ("cpu", torch.float64, None),
        ("cuda", torch.float32, None),
        ("cuda", torch.float32, 96),
    ):
        given = [x.to(device, dtype, copy=True).requires_grad_() for x in (query, positive, negative)]
        batch = local_batch(
            given[0],
            given[1],
            given[2].reshape(700, 2, 64),
            positive_id=(ids + 1000).to(device),
            query_id=torch.arange(700, device=device),
            relevant_id=(ids + 1000)[:, None].to(device),
            negative_id=torch.arange(5000, 6400, device=device),
        )
        objective = InfoNCE(tile=tile, directions=["query_to_document", "document_to_query", "query_to_query"])
        share = objective(batch, {})
        share.loss.backward()
        grads = torch.cat([x.grad.reshape(-1) for x in given]).double().cpu()
        found[device, tile] = (share.loss.item(), grads, share.report["masked"].item())
    exact, *others = found.values()
    for loss, grads, masked in others:
        assert loss == pytest.approx(exact[0], rel=1e-5)
        assert (grads - exact[1]).norm() <= 1e-4 * exact[1].norm()
        assert masked == pytest.approx(exact[2], rel=1e-6) and masked > 0


class Lines(RunStore):
    """Keeps the lines of a run."""

    def __init__(self):
        self.rows = []

    def log(self, row):
        self.rows.append(row)


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"precision": "float16"}, {"cache_tokens": 512}])
def test_training_on_a_gpu_learns(minilm, settings):
    """A question's answer repeats its words; two layers of the model learn that in a few steps."""
    texts = sentences(128, 12)
    ids = [f"{row}" for row in range(128)]
    table = pa.table(
        {"anchor_id": ids, "anchor": texts, "positive_id": ids, "positive": [f"so {x} it is" for x in texts]}
    )
    config = LoopConfig(
        batch_size=64, epochs=12, learning_rate=2e-4, validations=0, log_every=1, **{"precision": "auto"} | settings
    )
    encoder = Encoder.load(EncoderConfig(model=minilm, layers=2, dtype="float32"), "cuda", to_train=True)
    lines = Lines()
    loop = TrainStep(encoder, InfoNCE(), rows_from(table, {}), config)
    Trainer(loop, lines, None).run()
    losses = [row["loss"] for row in lines.rows if "loss" in row]
    assert len(losses) == 24 and np.mean(losses[-4:]) < 0.7 * np.mean(losses[:2])
    assert loop.optimizer.bad_steps == 0
