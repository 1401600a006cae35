"""Distances and similarities of embeddings, and a margin that may change while training."""

from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from training.losses.loss import Loss

Distance = Literal["cosine", "euclidean", "manhattan"]
Similarity = Literal["cosine", "dot"]
DOT_TEMPERATURE = 1.0  # of inner products where nothing is set, as Sentence Transformers advises (scale 1)


class MarginLoss(Loss):
    """A loss with a margin between distances."""

    margin: float = Field(0.2, ge=0, description="by how much nearer the positive must be")
    last_margin: float | None = Field(None, ge=0, description="the margin moves to this, evenly, until training ends")
    distance: Distance = Field("cosine", description="cosine distance is 1 - cosine, between 0 and 2")

    def margin_at(self, progress: float) -> float:
        """Return the margin when a share `progress` of the training is done."""
        last = self.margin if self.last_margin is None else self.last_margin
        return self.margin + (last - self.margin) * min(1.0, max(0.0, progress))

    def compares_by(self) -> str:
        """Return the distance by the name of what it measures."""
        return self.distance


class SimilarityLoss(Loss):
    """A loss that compares by the cosine or by inner products: as the model does, unless its settings say."""

    similarity: Similarity = Field("cosine", description="cosine or dot; default: what the model is compared by")

    def compares_by(self) -> str:
        """Return the similarity."""
        return self.similarity

    def follow(self, similarity: str, *, unit_length: bool) -> Self:
        """Return the loss with the model's similarity, and a temperature for inner products, where none is set.

        Inner products of vectors of any length reach far beyond 1: a temperature that suits cosines makes of them one
        certain document a row, whose gradient is zero.
        """
        if "similarity" in self.model_fields_set or similarity == self.similarity:
            return self
        changes: dict[str, Any] = {"similarity": similarity}
        open_temperature = "temperature" in type(self).model_fields and "temperature" not in self.model_fields_set
        if similarity == "dot" and open_temperature and not unit_length:
            changes["temperature"] = DOT_TEMPERATURE
        return self.model_copy(update=changes)


def paired_distance(a: Tensor, b: Tensor, distance: Distance) -> Tensor:
    """Distances [M] between row i of [M, D] and row i of [M, D]."""
    if distance == "cosine":
        return 1.0 - F.cosine_similarity(a, b, dim=-1)
    if distance == "euclidean":
        return (a - b).pow(2).sum(dim=-1).clamp(min=1e-12).sqrt()
    return (a - b).abs().sum(dim=-1)


def pairwise_distance(a: Tensor, b: Tensor, distance: Distance) -> Tensor:
    """Distances [R, C] of every row of [R, D] to every row of [C, D]; equal rows have gradient zero."""
    if distance == "cosine":
        return 1.0 - F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    return torch.cdist(a, b, p=2.0 if distance == "euclidean" else 1.0)


def paired_similarity(a: Tensor, b: Tensor, similarity: Similarity) -> Tensor:
    """Similarities [M] of row i of [M, D] and row i of [M, D]."""
    return F.cosine_similarity(a, b, dim=-1) if similarity == "cosine" else (a * b).sum(dim=-1)
