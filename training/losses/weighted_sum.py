"""Weighted sum of losses over one encoding of the batch.

loss = sum_k weight_k * loss_k
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.core.config import Config
from training.losses.infonce import InfoNCE
from training.losses.objective import Batch, Objective, Share
from training.losses.single import Basic


class Term(Config):
    """A loss and what it weighs."""

    weight: float = Field(1.0, gt=0)
    loss: Basic = InfoNCE()


class WeightedSum(Objective):
    """Several losses at once; each reports its own value, and learned scalars carry the number of their loss."""

    type: Literal["sum"] = "sum"
    losses: list[Term] = Field(min_length=1, description="losses and their weights")

    def learned(self) -> dict[str, float]:
        """Return the scalars of all losses, as "0_log_scale"."""
        return {
            f"{at}_{name}": value for at, term in enumerate(self.losses) for name, value in term.loss.learned().items()
        }

    def trusts(self) -> bool:
        """Whether one of the losses does."""
        return any(term.loss.trusts() for term in self.losses)

    def needs_base(self) -> bool:
        """Whether one of the losses does."""
        return any(term.loss.needs_base() for term in self.losses)

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the sum; figures that an earlier loss reports already carry the number of theirs."""
        total = torch.zeros((), dtype=batch.query.dtype, device=batch.query.device)
        report: dict[str, Tensor] = {}
        for at, term in enumerate(self.losses):
            share = term.loss(batch, {name: learned[f"{at}_{name}"] for name in term.loss.learned()})
            total = total + term.weight * share.loss
            figures = {f"loss_{at}": share.loss.detach(), **share.report}
            report |= {(f"{at}_{name}" if name in report else name): value for name, value in figures.items()}
        return Share(total, report)
