"""Triplet margin loss: the anchor nearer to the positive than to the negative by a margin.

    loss(a, p, n) = max(0, d(a, p) - d(a, n) + margin)
Source: Schroff et al. 2015 (FaceNet, arXiv 1503.03832).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.distance import Margin, measure
from training.losses.objective import Batch, Share


class TripletMargin(Margin):
    """Margin between the positive and each given negative of a row; rows without negatives have no triplet."""

    type: Literal["triplet"] = "triplet"

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over the M given triplets of the global batch, each with the weight of its row."""
        own = batch.negative_rows
        row = batch.negative_row[own]
        anchor, positive, negative = batch.query[row], batch.positive[row], batch.negative[own]
        near, far = measure(anchor, positive, self.distance), measure(anchor, negative, self.distance)
        loss = F.relu(near - far + self.margin_at(batch.progress))
        count = torch.tensor(max(1, len(batch.negative)), device=loss.device)
        with torch.no_grad():
            report = {
                "active": (loss > 0).float().sum() / count,
                "accuracy": (near < far).float().sum() / count,
            }
        if batch.weight is not None:
            weight = batch.weight[batch.negative_row]
            loss, count = loss * weight[own], weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        return Share(loss.sum() / count + 0.0 * batch.query.sum(), report)
