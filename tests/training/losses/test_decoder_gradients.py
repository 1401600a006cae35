"""The matrix of test_gradients.py on a packed decoder with last-token pooling and a dense layer after it.

Under DDP and with shared weights (FSDP2), and a rank may have no row, in the very first step too.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import nn

from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support import zoo
from tests.support.ranks import run_ranks
from tests.training.losses.test_gradients import DIM, LOSSES, SPLITS, embed, one_process
from tests.training.losses.test_sharded_gradients import counted
from training.loop.embed_module import EmbedModule
from training.loop.fully_sharded import FullySharded
from training.loop.placement import Placement
from training.loop.replicated import Replicated
from training.losses.gather import world

pytest.importorskip("sentence_transformers")
LAYERS, BUDGET = 2, 30
Learned = tuple[tuple[str, float], ...]
WAYS = {
    "ddp": [("plain", "none on a rank"), ("cached", "none on a rank"), ("plain", "unequal")],
    "fsdp": [("cached", "none on a rank"), ("plain", "unequal")],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A decoder whose last token is pooled, and a dense layer to the width of the matrix."""
    folder = tmp_path_factory.mktemp("decoder")
    after = zoo.pooling("lasttoken"), zoo.dense(zoo.WIDTH, DIM, activation=nn.Tanh)
    return str(zoo.chain("qwen3", *after)(folder))


@cache
def loaded(model: str) -> Encoder:
    config = EncoderConfig(model=model, layers=LAYERS, dtype="float32")
    encoder = Encoder.load(config, "cpu", to_train=True).double().train()
    assert encoder.packed and encoder.pooling == "lasttoken" and encoder.dim == DIM
    return encoder


@cache
def placed(model: str, parallel: str, learned: Learned) -> tuple[Placement, list[int]]:
    """The model on the ranks, and a list that has an entry for every reduction of DDP."""
    kind = {"ddp": Replicated, "fsdp": FullySharded}[parallel]
    encoder, buckets = copy.deepcopy(loaded(model)), []
    with double_scalars():
        placement = kind(encoder, dict(learned), torch.float64, torch.device("cpu"))
    if placement.model is not placement.module:
        placement.model.register_comm_hook(buckets, mean)
    return placement, buckets


@contextmanager
def double_scalars() -> Iterator[None]:
    """The scalars of a module that is made inside are in float64, as its weights are."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def mean(buckets: list[int], bucket):
    """What DDP does without a hook, counted."""
    buckets.append(bucket.index())
    total = torch.distributed.all_reduce(bucket.buffer().div_(world()[1]), async_op=True).get_future()
    return total.then(lambda future: future.value()[0])


def gradient(model: str, parallel: str, name: str, mode: str, sizes: list[int]) -> dict:
    """This rank's part of a step: loss share, the whole gradient, and how often gradients were reduced."""
    loss = LOSSES[name]
    placement, buckets = placed(model, parallel, tuple(loss.learnable().items()))
    placement.module.zero_grad()
    buckets.clear()
    passes = placement.encoder_pass(placement.model, None if mode == "plain" else BUDGET)
    share = loss(embed(passes, sizes, weighted=True), passes.scalars)
    with counted() as calls:
        passes.backward(share.loss * world()[1])
    grads = [value.grad for value in placement.module.parameters() if value.requires_grad]
    full = [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads]
    flat = torch.cat([grad.reshape(-1).clone() for grad in full])
    return {"loss": share.loss.detach(), "grad": flat, "reductions": len(buckets) + len(calls)}


def cases(parallel: str) -> list[tuple[str, str, str]]:
    return [(name, mode, split) for name in LOSSES for mode, split in WAYS[parallel]]


def every_step(size: int, model: str, parallel: str) -> list[dict]:
    return [gradient(model, parallel, name, mode, SPLITS[split][size]) for name, mode, split in cases(parallel)]


@cache
def truth(model: str, name: str):
    """The same step in one process, without gather, chunks or tiles."""
    with double_scalars():
        module = EmbedModule(copy.deepcopy(loaded(model)), LOSSES[name].learnable())
    return one_process(module, name, weighted=True)


@pytest.mark.parametrize(("parallel", "size"), [("ddp", size) for size in (1, 2, 3, 4)] + [("fsdp", n) for n in (2, 4)])
def test_ranks_give_a_decoder_the_one_process_gradient(model: str, parallel: str, size: int):
    results = run_ranks(size, every_step, size, model, parallel)
    parts = LAYERS + 1 if parallel == "fsdp" else int(size > 1)
    assert [len(rank) for rank in results] == [len(cases(parallel))] * size
    for case, ranks in zip(cases(parallel), zip(*results, strict=True), strict=True):
        share, expected = truth(model, case[0])
        total = sum(rank["loss"] for rank in ranks)
        torch.testing.assert_close(total, share.loss.detach(), rtol=1e-9, atol=1e-12, msg=str(case))
        for rank in ranks:
            assert rank["grad"].norm() / expected.norm() == pytest.approx(1.0, abs=1e-6), case
            assert torch.cosine_similarity(rank["grad"], expected, dim=0) >= 1 - 1e-10, case
            assert rank["reductions"] == parts, f"{case}: gradients are reduced once a step"
