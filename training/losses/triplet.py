"""Triplet margin loss: the anchor nearer to the positive than to the negative by a margin.

    loss(a, p, n) = max(0, d(a, p) - d(a, n) + margin)
Source: Schroff et al. 2015 (FaceNet, arXiv 1503.03832).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.distance import MarginLoss, paired_distance
from training.losses.loss import Batch, LossShare


class TripletMargin(MarginLoss):
    """MarginLoss between the positive and each given negative of a row; rows without negatives have no triplet.

    A given document that is judged no less relevant than the positive makes none either.
    """

    type: Literal["triplet"] = "triplet"

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the given triplets of the global batch, each with the weight of its row."""
        local = batch.negative_rows
        row = batch.negative_row[local]
        anchor, positive, negative = batch.query[row], batch.positive[row], batch.negative[local]
        near, far = paired_distance(anchor, positive, self.distance), paired_distance(anchor, negative, self.distance)
        counted = _less_relevant(batch)
        weight = counted if batch.weight is None else counted * batch.weight[batch.negative_row]
        loss = F.relu(near - far + self.margin_at(batch.progress))
        with torch.no_grad():
            count = counted.sum().clamp(min=1)
            report = {
                "active": ((loss > 0) * counted[local]).sum() / count,
                "accuracy": ((near < far) * counted[local]).sum() / count,
            }
        total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        return LossShare((loss * weight[local]).sum() / total + 0.0 * batch.query.sum(), report)


def _less_relevant(batch: Batch) -> Tensor:
    """1 for given documents [M] that are judged less relevant than their row's positive, 0 for the others."""
    if batch.negative_score is None:
        return batch.negative.new_ones(len(batch.negative))
    above = torch.ones_like(batch.negative_score) if batch.score is None else batch.score[batch.negative_row]
    return (batch.negative_score < above).to(batch.negative.dtype)
