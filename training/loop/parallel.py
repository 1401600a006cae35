"""The ways to place a module on the ranks, by name."""

from collections.abc import Mapping
from typing import Literal

import torch

from pipeline.encoder.encoder import Encoder
from training.loop.fully_sharded import FullySharded
from training.loop.placement import Placement
from training.loop.replicated import Replicated
from training.losses.gather import world

Parallel = Literal["ddp", "fsdp"]
PLACEMENTS: dict[Parallel, type[Replicated | FullySharded]] = {"ddp": Replicated, "fsdp": FullySharded}


def place(
    parallel: Parallel, encoder: Encoder, scalars: Mapping[str, float], *, precision: torch.dtype, device: torch.device
) -> Placement:
    """Place an encoder, in place, and learnable scalars on the ranks; one rank alone has nothing to share.

    `precision` is that of the forward pass, `device` is where this rank computes.
    """
    kind = PLACEMENTS[parallel] if world()[1] > 1 else Replicated
    return kind(encoder, scalars, precision, device)
