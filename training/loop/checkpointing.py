"""Gradient checkpointing: only what enters a layer is kept, the rest is computed again in backward.

transformers does it for most architectures; for the others (MPNet, ALBERT) the layers are found and wrapped here.
Source: Chen et al. 2016 (arXiv 1604.06174).
"""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder


def checkpoint_layers(encoder: Encoder) -> None:
    """Checkpoint the layers of an encoder's transformers, in place; raises UserError where there are none."""
    done = [_checkpointed(transformer) for transformer in encoder.transformers]
    if not done or not all(done):
        raise UserError("loop.gradient_checkpointing: this model has no layers; leave it out")


def _checkpointed(transformer: Any) -> bool:
    try:
        newer = getattr(transformer, "activation_checkpointing_enable", None)  # the name of later releases
        (newer or transformer.gradient_checkpointing_enable)({"use_reentrant": False})
    except (AttributeError, ValueError):
        layers = listed_parts(transformer)
        for layer in layers:
            layer.forward = partial(_forward, layer, layer.forward)
        return bool(layers)
    return True


def _forward(layer: nn.Module, forward: Any, *inputs: Any, **options: Any) -> Any:
    if not layer.training:
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)


def listed_parts(module: nn.Module) -> list[nn.Module]:
    """The layers of a transformer: the parts of its outermost lists of modules."""
    parts: list[nn.Module] = []
    for child in module.children():
        parts += child if isinstance(child, nn.ModuleList) else listed_parts(child)
    return parts
