"""Matryoshka: the first dimensions of a vector shall be good embeddings by themselves, at several lengths.

    loss = sum over lengths m of weight_m * loss(first m dimensions, at length 1)
A loss that compares by inner products takes the dimensions as they are: so are those of a truncated model compared.
Source: Kusupati et al. 2022 (arXiv 2205.13147).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.errors import UserError
from training.losses.infonce import InfoNCE
from training.losses.loss import Batch, Loss, LossShare, single_losses
from training.losses.registry import LOSSES, SingleLoss
from training.losses.weighted_sum import WeightedSum


class Matryoshka(Loss):
    """Another loss at several lengths of the vectors; figures are reported for the longest."""

    type: Literal["matryoshka"] = "matryoshka"
    loss: Annotated[SingleLoss | WeightedSum, LOSSES] = InfoNCE()
    dims: list[int] = Field([384, 256, 128, 64], min_length=1, description="lengths, the whole vector's among them")
    weights: list[float] | None = Field(None, description="of the lengths, 1 each by default")
    dims_per_step: int | None = Field(
        None, ge=1, description="so many random lengths each step, the same on all workers"
    )
    seed: int = Field(0, description="of the random lengths")

    @model_validator(mode="after")
    def _fits(self) -> "Matryoshka":
        if min(self.dims) < 1 or len(set(self.dims)) < len(self.dims):
            raise ValueError("dims must be different and positive")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError("weights must be as many as dims")
        if self.loss.needs_teacher_width():
            raise ValueError(
                "embedding_mse compares whole vectors with the teacher's; under matryoshka take relative_distillation"
            )
        return self

    def learnable(self) -> dict[str, float]:
        """Return the scalars of the loss, which all lengths share."""
        return self.loss.learnable()

    def parts(self) -> Sequence[Loss]:
        """Return the loss that it wraps."""
        return [self.loss]

    def follow(self, similarity: str, *, unit_length: bool) -> Self:
        """Return the loss around one that follows the model."""
        return self.model_copy(update={"loss": self.loss.follow(similarity, unit_length=unit_length)})

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the weighted sum over the lengths of this step."""
        width = batch.query.shape[1]
        if max(self.dims) > width:
            raise UserError(f"loss matryoshka: dims has {max(self.dims)}, but vectors are {width} long")
        total = torch.zeros((), dtype=batch.query.dtype, device=batch.query.device)
        report: dict[str, Tensor] = {}
        unit_length = all(part.compares_by() != "dot" for part in single_losses(self.loss))
        for dim, weight in self.lengths_at(batch.step):
            share = self.loss(truncate(batch, dim, unit_length=unit_length), scalars)
            total = total + weight * share.loss
            report = share.report | report | {f"loss_{dim}": share.loss.detach()}
        return LossShare(total, report)

    def lengths_at(self, step: int) -> list[tuple[int, float]]:
        """Lengths of a step with their weights, the longest first; a function of the seed and the step alone."""
        lengths = sorted(zip(self.dims, self.weights or [1.0] * len(self.dims), strict=True), reverse=True)
        if self.dims_per_step is None or self.dims_per_step >= len(lengths):
            return lengths
        chosen = random.Random(f"{self.seed}/{step}").sample(range(len(lengths)), self.dims_per_step)
        return [lengths[at] for at in sorted(chosen)]


def truncate(batch: Batch, dim: int, *, unit_length: bool = True) -> Batch:
    """The batch with the first `dim` dimensions of its vectors, at length 1 or as they are."""

    def cut(vectors: Tensor) -> Tensor:
        return F.normalize(vectors[:, :dim], dim=1) if unit_length else vectors[:, :dim]

    query, positive, negative = cut(batch.query), cut(batch.positive), cut(batch.negative)
    base = None if batch.base is None else cut(batch.base)
    return replace(batch, query=query, positive=positive, negative=negative, base=base)
