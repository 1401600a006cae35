"""When the gradients of a step are reduced over ranks: once, in the last backward pass, in whatever way they are held.

A step may encode its texts in several passes (the gradient cache, or batches under a token budget). Reducing after each
would cost as many rounds of communication; summing first and reducing last costs one and gives the same mean.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from pipeline.encoder.token_batches import Ints


class GradientSync:
    """Of a model in one process: there is nothing to reduce."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def equal_passes(self, batches: list[Ints]) -> list[Ints]:
        """Indices of the texts of each pass of this rank, where every rank must make as many."""
        return batches

    def reduce(self, last: bool) -> AbstractContextManager[None]:
        """Forward and backward of a pass: gradients are reduced in the `last` one."""
        return nullcontext()

    def finish(self, scalars: Mapping[str, Tensor]) -> None:
        """After the last backward: reduce the gradients of learnable scalars that the model's reduction leaves out."""


class ReplicatedSync(GradientSync):
    """Of a model that every rank holds whole, under DistributedDataParallel."""

    def reduce(self, last: bool) -> AbstractContextManager[None]:
        """Have DDP reduce in the last pass."""
        if not last and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()


class ShardedSync(GradientSync):
    """Of a model whose weights ranks share (FSDP2), and gather for every pass: so all make the same number of passes.

    Until the last pass each rank holds the gradients of the whole model, unreduced.
    """

    def equal_passes(self, batches: list[Ints]) -> list[Ints]:
        """Put passes without texts first, up to the most that any rank has texts for; one small collective."""
        most = torch.tensor(len(batches), device=next(self.model.parameters()).device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return [np.zeros(0, dtype=np.int64)] * (int(most) - len(batches)) + batches

    @contextmanager
    def reduce(self, last: bool) -> Iterator[None]:
        """Have FSDP reduce in the last pass."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(last)
        self.model.set_is_last_backward(last)
        yield

    def finish(self, scalars: Mapping[str, Tensor]) -> None:
        """Average the gradients of the scalars, which every rank holds whole."""
        grads = [value.grad for value in scalars.values() if value.grad is not None]
        if grads:
            mean = torch.stack(grads)
            dist.all_reduce(mean)
            torch._foreach_copy_(grads, list((mean / dist.get_world_size()).unbind()))


def gradient_sync(model: nn.Module) -> GradientSync:
    """How the gradients of a model are reduced, by what holds its weights."""
    if isinstance(model, FSDPModule):
        return ShardedSync(model)
    return ReplicatedSync(model) if isinstance(model, DistributedDataParallel) else GradientSync(model)
