"""The gradient of W ranks that share the weights (FSDP2) is that of one process: the matrix of test_gradients.py."""

from functools import cache

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.support.ranks import run_ranks
from tests.training.losses.test_gradients import LOSSES, SPLITS, Tiny, data, embed, truth
from training.loop.fully_sharded import shard
from training.loop.gradient_cache import GradientCache
from training.losses.gather import world

BUDGET = 30
REDUCTIONS = [name for name in ("reduce_scatter_single", "reduce_scatter_tensor") if hasattr(dist, name)]


class Layer(nn.Module):
    """Rows times a weight."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, rows):
        return rows @ self.weight


class TinyOfParts(Tiny):
    """The same model with its weight in a part, which gathers by itself."""

    def __init__(self, table, learned):
        super().__init__(table, learned)
        self.layer = Layer(self.weight)
        del self.weight

    def forward(self, tokens, skip):
        rows = torch.tensor([text[0] for text in tokens], dtype=torch.int64)
        return torch.tanh(self.layer(self.table[rows]))


@cache
def shared(learned: tuple[tuple[str, float], ...], in_parts: bool) -> nn.Module:
    module = (TinyOfParts if in_parts else Tiny)(data()[0], dict(learned))
    parts = [module.layer] if in_parts else []
    return shard(module, parts, torch.float64, "cpu", set(module.scalars.parameters()))


def gradient(name: str, mode: str, sizes: list[int], in_parts: bool):
    """This rank's part of a step: its loss share, the whole gradient, and how often gradients were reduced."""
    loss = LOSSES[name]
    module = shared(tuple(loss.learnable().items()), in_parts)
    module.zero_grad()
    passes = GradientCache(module, module, module.scalars, BUDGET, keep_graphs=mode == "plain")
    share = loss(embed(passes, sizes, weighted=True), passes.scalars)
    with counted() as reductions:
        passes.backward(share.loss * world()[1])
    weight = module.layer.weight if in_parts else module.weight
    flat = [weight.grad.full_tensor(), *(scalar.grad for scalar in module.scalars.values())]
    return {
        "loss": share.loss.detach(),
        "grad": torch.cat([grad.reshape(-1).clone() for grad in flat]),
        "reductions": len(reductions),
    }


class counted:
    """A list that has an entry for every reduction that FSDP asks torch.distributed for."""

    def __enter__(self) -> list[str]:
        self.calls: list[str] = []
        self.before = {name: getattr(dist, name) for name in REDUCTIONS}
        for name, function in self.before.items():
            setattr(dist, name, self._counting(name, function))
        return self.calls

    def _counting(self, name, function):
        def call(*args, **kwargs):
            self.calls.append(name)
            return function(*args, **kwargs)

        return call

    def __exit__(self, *_) -> None:
        for name, function in self.before.items():
            setattr(dist, name, function)


def cases() -> list[tuple[str, str, str, bool]]:
    """Every loss plain and cached on uneven splits, with the weight in a part and with the rest by turns."""
    ways = [("plain", "unequal"), ("cached", "none on a rank")]
    return [
        (name, mode, split, (number + offset) % 2 == 0)
        for number, name in enumerate(LOSSES)
        for offset, (mode, split) in enumerate(ways)
    ]


def every_step(size: int):
    return [gradient(name, mode, SPLITS[split][size], in_parts) for name, mode, split, in_parts in cases()]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_that_share_weights_give_the_one_process_gradient(size):
    found = run_ranks(size, every_step, size)
    assert [len(rank) for rank in found] == [len(cases())] * size
    for case, ranks in zip(cases(), zip(*found, strict=True), strict=True):
        share, expected = truth(case[0], True)
        total = sum(rank["loss"] for rank in ranks)
        torch.testing.assert_close(total, share.loss.detach(), rtol=1e-10, atol=1e-14, msg=str(case))
        for rank in ranks:
            assert rank["grad"].norm() / expected.norm() == pytest.approx(1.0, abs=1e-6), case
            assert torch.cosine_similarity(rank["grad"], expected, dim=0) >= 1 - 1e-10, case
            assert rank["reductions"] == (1 if size > 1 else 0), f"{case}: one reduction a step"
