"""Triplet margin loss: the anchor nearer to the positive than to the negative by a margin.

    loss(a, p, n) = max(0, d(a, p) - d(a, n) + margin)
Source: Schroff et al. 2015 (FaceNet, arXiv 1503.03832).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from training.losses.objective import Batch, Objective, Share

Distance = Literal["cosine", "euclidean", "manhattan"]


class TripletMargin(Objective):
    """Margin between the positive and each given negative of a row; rows without negatives have no triplet."""

    type: Literal["triplet"] = "triplet"
    margin: float = Field(0.2, gt=0, description="by how much nearer the positive must be")
    distance: Distance = Field("cosine", description="cosine distance is 1 - cosine, between 0 and 2")

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over the M given triplets of the global batch."""
        own = batch.negative_rows
        row = batch.negative_row[own]
        anchor, positive, negative = batch.query[row], batch.positive[row], batch.negative[own]
        near, far = measure(anchor, positive, self.distance), measure(anchor, negative, self.distance)
        loss = F.relu(near - far + self.margin)
        count = max(1, len(batch.negative))
        with torch.no_grad():
            report = {
                "active": (loss > 0).float().sum() / count,
                "accuracy": (near < far).float().sum() / count,
            }
        return Share(loss.sum() / count + 0.0 * batch.query.sum(), report)


def measure(left: Tensor, right: Tensor, distance: Distance) -> Tensor:
    """Distances [M] between rows [M, D] and [M, D]."""
    if distance == "cosine":
        return 1.0 - F.cosine_similarity(left, right, dim=-1)
    if distance == "euclidean":
        return (left - right).pow(2).sum(dim=-1).clamp(min=1e-12).sqrt()
    return (left - right).abs().sum(dim=-1)
