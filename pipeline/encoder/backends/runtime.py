"""The interface of a runtime: token ids of padded batches into token states, computed by another engine than torch."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Batch = tuple[Ints, Ints]  # ids [B, L] and mask [B, L]
OnStates = Callable[[int, npt.NDArray[Any]], None]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
STATES = "last_hidden_state"


class Runtime(Protocol):
    """Computes the transformer of one model directory; pooling stays in the encoder."""

    label: str  # name of the runtime

    def __call__(self, batches: Sequence[Batch], on_states: OnStates) -> None:
        """Compute every batch and call `on_states` with its index and its token states [B, L, H], in any order."""


def graph_inputs(names: Sequence[str], batch: Batch) -> dict[str, Ints]:
    """Inputs of a graph by their names; token types are all zero, as each text is one segment."""
    ids, mask = batch
    arrays = dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
    return {name: arrays[name] for name in names}
