"""The global norm of gradients, and clipping by it, where each rank may hold only some rows of them."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.loop.tensor_files import is_sharded, local_rows


def total_norm(parameters: Sequence[nn.Parameter]) -> float:
    """L2 norm of the gradients of all parameters over all rows on all ranks: the same number on every rank.

    Sharded gradients are summed over ranks; one that every rank holds whole counts once.
    """
    gradients = [value.grad for value in parameters if value.grad is not None]
    shards = [local_rows(grad) for grad in gradients if is_sharded(grad)]
    whole = _norm([grad for grad in gradients if not is_sharded(grad)])
    if not shards:
        return whole
    squares = torch.tensor(_norm(shards), dtype=torch.float64, device=shards[0].device).square()
    dist.all_reduce(squares)
    return math.sqrt(float(squares) + whole**2)


def clip(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale gradients, in place, to a global norm of `max_norm` at most; returns the norm that they had.

    The formula is that of `torch.nn.utils.clip_grad_norm_`, which takes no mixture of sharded and whole gradients. A
    norm that is not finite leaves the gradients as they are.
    """
    if not any(is_sharded(value) for value in parameters):
        return float(nn.utils.clip_grad_norm_(parameters, max_norm))
    norm = total_norm(parameters)
    if math.isfinite(norm):
        share = min(1.0, max_norm / (norm + 1e-6))
        torch._foreach_mul_([local_rows(value.grad) for value in parameters if value.grad is not None], share)
    return norm


def _norm(gradients: list[Tensor]) -> float:
    return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
