"""What a runtime is: token ids of padded batches into token states, elsewhere than in torch."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Batch = tuple[Ints, Ints]  # ids [B, L] and mask [B, L]
Take = Callable[[int, npt.NDArray[Any]], None]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
STATES = "last_hidden_state"


class Runtime(Protocol):
    """Computes the transformer of one model directory; pooling stays where it is, in the encoder."""

    label: str  # what it adds to the precision in an encoder's identity

    def __call__(self, batches: Sequence[Batch], take: Take) -> None:
        """Compute every batch and hand `take` its place and its token states [B, L, H], in any order."""


def feed(names: Sequence[str], batch: Batch) -> dict[str, Ints]:
    """Inputs of a graph by their names; a model of one segment alone has token types of zero."""
    ids, mask = batch
    held = dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
    return {name: held[name] for name in names}
