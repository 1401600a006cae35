"""The base as it was: a frozen copy of an encoder, for losses that compare with it."""

import copy

import torch
from torch import Tensor

from pipeline.encoder.encoder import Encoder
from pipeline.encoder.tokenizer import Tokens


class Frozen:
    """A copy of an encoder that never trains; made before training, or a restored checkpoint, changes the original.

    It encodes without gradient in chunks of the encoder's token budget and draws no random numbers, so it takes the
    memory of its weights and one chunk, and a step's dropout is the same with and without it.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)

    def __call__(self, tokens: Tokens, skip: list[int]) -> Tensor:
        """Token ids and leading tokens to skip of R texts into [R, D]."""
        with torch.no_grad():
            return self.encoder.encode_tokens(tokens, skip)
