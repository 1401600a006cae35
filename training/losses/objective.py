"""What every objective sees and returns.

A loss is defined on the global batch. Each rank returns its share; shares sum to the loss on the global batch, which
is what makes the gradient independent of the number of ranks (training/gather.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.config import Config


@dataclass(frozen=True)
class Batch:
    """The embedded global batch as one rank sees it: rows of all ranks, and which are its own.

    `query` [N, D] and `positive` [N, D] are aligned by row; `negative` [M, D] belongs to the row that
    `negative_row` [M] names. Ids are 64-bit; `known` [N, K] holds for each row the documents known to be relevant to
    its query, padded with -1.
    """

    query: Tensor
    positive: Tensor
    negative: Tensor
    negative_row: Tensor
    rows: slice
    negative_rows: slice
    positive_id: Tensor | None = None
    negative_id: Tensor | None = None
    query_id: Tensor | None = None
    known: Tensor | None = None

    @property
    def size(self) -> int:
        """Rows N of the global batch."""
        return len(self.query)

    @property
    def own(self) -> Tensor:
        """Global row numbers of this rank's rows [n]."""
        return torch.arange(self.rows.start, self.rows.stop, device=self.query.device)


@dataclass(frozen=True)
class Share:
    """One rank's share of the loss on the global batch, and shares of what is reported beside it."""

    loss: Tensor
    report: dict[str, Tensor] = field(default_factory=dict)


class Objective(Config):
    """A training objective; subclasses are frozen settings with `type` as their name in recipes."""

    def learned(self) -> dict[str, float]:
        """Scalars that training adjusts, by name, with their initial values."""
        return {}

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Compute this rank's share of the loss."""
        raise NotImplementedError


def local(query: Tensor, positive: Tensor, negative: Tensor | None = None, **ids: Tensor | None) -> Batch:
    """Make a one-process batch of plain tensors: [N, D], [N, D] and [N, n, D] or none."""
    size, dim = query.shape
    given = query.new_zeros(size, 0, dim) if negative is None else negative
    owner = torch.arange(size, device=query.device).repeat_interleave(given.shape[1])
    return Batch(query, positive, given.reshape(-1, dim), owner, slice(0, size), slice(0, len(owner)), **ids)
