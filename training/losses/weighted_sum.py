"""Weighted sum of several losses over one encoding of the batch.

loss = sum_k weight_k * loss_k
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from pipeline.core.config import Config
from training.losses.infonce import InfoNCE
from training.losses.loss import Batch, Loss, LossShare
from training.losses.registry import SingleLoss


class Term(Config):
    """A loss and its weight."""

    weight: float = Field(1.0, gt=0)
    loss: SingleLoss = InfoNCE()


class WeightedSum(Loss):
    """Several losses at once; each reports its own value, and learnable scalars carry the number of their loss."""

    type: Literal["weighted_sum"] = "weighted_sum"
    losses: list[Term] = Field(min_length=1, description="losses and their weights")

    def learnable(self) -> dict[str, float]:
        """Return the scalars of all losses, as "0_log_scale"."""
        return {
            f"{number}_{name}": value
            for number, term in enumerate(self.losses)
            for name, value in term.loss.learnable().items()
        }

    def parts(self) -> Sequence[Loss]:
        """Return the losses of the sum."""
        return [term.loss for term in self.losses]

    def follow(self, similarity: str, *, unit_length: bool) -> Self:
        """Return the sum of losses that each follow the model."""
        terms = [
            term.model_copy(update={"loss": term.loss.follow(similarity, unit_length=unit_length)})
            for term in self.losses
        ]
        return self.model_copy(update={"losses": terms})

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the sum; figures that an earlier loss reports already carry the number of theirs."""
        total = torch.zeros((), dtype=batch.query.dtype, device=batch.query.device)
        report: dict[str, Tensor] = {}
        for number, term in enumerate(self.losses):
            share = term.loss(batch, {name: scalars[f"{number}_{name}"] for name in term.loss.learnable()})
            total = total + term.weight * share.loss
            figures = {f"loss_{number}": share.loss.detach(), **share.report}
            report |= {(f"{number}_{name}" if name in report else name): value for name, value in figures.items()}
        return LossShare(total, report)
