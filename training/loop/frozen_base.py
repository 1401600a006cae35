"""A frozen copy of the encoder as it was before training, for losses that compare with the base."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.encoder.encoder import Encoder
from pipeline.encoder.tokenizer import Tokens
from training.loop.placement import Placement


class FrozenBase:
    """A copy of an encoder that never trains; made before training or a checkpoint changes the original.

    It encodes without gradient, in chunks of the encoder's token budget, and draws no random numbers: it needs the
    memory of its weights, which ranks share where they share the trained ones, and one chunk; the dropout of a step is
    the same with and without it.
    """

    def __init__(self, encoder: Encoder, place: Callable[[Encoder, dict[str, float]], Placement]) -> None:
        placement = place(copy.deepcopy(encoder).eval().requires_grad_(False), {})
        self.encoder = placement.text_encoder(placement.model)

    def __call__(self, tokens: Tokens, skip: list[int]) -> Tensor:
        """Turn token ids and numbers of leading tokens to skip of R texts into [R, D]."""
        with torch.no_grad():
            return self.encoder.encode_tokens(tokens, skip)
