"""Token states of padded texts into one vector a text."""

import torch
from torch import Tensor

from pipeline.encoder.packing import wide


def pool(states: Tensor, mask: Tensor, mode: str) -> Tensor:
    """Token states [B, L, H] over the mask [B, L] into [B, H], float32 at least; `mode` is mean, cls or max."""
    if mode == "cls":
        first = mask.argmax(dim=1)
        return wide(states[torch.arange(len(states), device=states.device), first])
    weight = mask.unsqueeze(-1)
    if mode == "max":
        return wide(states).masked_fill(weight == 0, float("-inf")).amax(dim=1)
    summed = (wide(states) * weight).sum(dim=1)
    return summed / weight.sum(dim=1).clamp(min=1)


def without_prompt(mask: Tensor, skip: Tensor) -> Tensor:
    """Mask [B, L] without the first `skip` [B] tokens of each text."""
    return mask * (torch.arange(mask.shape[1], device=mask.device) >= skip[:, None])
