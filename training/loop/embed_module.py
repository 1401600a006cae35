"""The module that a training step calls: the encoder, and the learnable scalars of the loss."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.encoder.encoder import Encoder
from pipeline.encoder.tokenizer import Tokens


class EmbedModule(nn.Module):
    """The encoder and the learnable scalars of the loss as one module, so that their gradients are reduced together."""

    def __init__(self, encoder: Encoder, scalars: Mapping[str, float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.scalars = nn.ParameterDict({name: nn.Parameter(torch.tensor(value)) for name, value in scalars.items()})

    def forward(self, tokens: Tokens, skip: list[int]) -> Tensor:
        """Encode token ids of R texts of all columns into [R, D], in one call so that DDP reduces gradients once.

        A rank that has no token to encode, as in a short last batch, takes part in the reduction with zeros.
        """
        vectors: Tensor = self.encoder.encode_tokens(tokens, skip)
        return vectors if any(tokens) else vectors + zero_with_gradients(self)


class OnePassModule(EmbedModule):
    """The same, where a call is one pass of the transformer, whatever its texts: ranks that share weights pass alike.

    A call without a token, of a rank that has nothing to encode while others have, passes a text of one token and
    leaves its vector out; the gradients of all weights are then zeros.
    """

    def forward(self, tokens: Tokens, skip: list[int]) -> Tensor:
        """Encode token ids of R texts, none longer than the one before it, into [R, D] in one pass."""
        if any(tokens):
            return self.encoder.encode_batch(tokens, skip)
        filled = self.encoder.encode_batch([*tokens, [0]], [*skip, 0])
        return filled.index_select(0, torch.arange(len(tokens), device=filled.device))


def zero_with_gradients(module: nn.Module) -> Tensor:
    """A zero [1] in whose graph every parameter that trains stands, so that each gets a gradient of zeros."""
    parts = [0.0 * value.sum() for value in module.parameters() if value.requires_grad]
    return sum(parts, torch.zeros((), device=next(module.parameters()).device)).reshape(1)
