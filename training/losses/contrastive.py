"""Contrastive losses on scored pairs: right pairs near, wrong pairs further apart than a margin.

With distance d_i and score y_i (1 right, 0 wrong):
    contrastive         mean over i of 0.5 * (y_i d_i^2 + (1 - y_i) max(0, margin - d_i)^2)
    online_contrastive  sum of d_i^2 over right pairs further than the nearest wrong pair, and of max(0, margin - d_i)^2
                        over wrong pairs nearer than the furthest right pair
Source: Hadsell et al. 2006 (Dimensionality Reduction by Learning an Invariant Mapping); the online form is that of
Sentence Transformers.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.distance import MarginLoss, paired_distance
from training.losses.loss import Batch, LossShare, need

FIX = "train on rows: [labelled]"


class Contrastive(MarginLoss):
    """Contrastive loss over all pairs; a score between 0 and 1 mixes the terms of right and wrong pairs."""

    type: Literal["contrastive"] = "contrastive"
    margin: float = 0.5

    def assumes_positives(self) -> bool:
        """Return False: the score of a pair says whether it is right."""
        return False

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the N pairs (query, positive) of the global batch, by weight."""
        score = need(batch.score, "scores", self.type, FIX)[batch.rows]
        distance = paired_distance(batch.query[batch.rows], batch.positive[batch.rows], self.distance)
        missing = F.relu(self.margin_at(batch.progress) - distance)
        loss = 0.5 * (score * distance.pow(2) + (1 - score) * missing.pow(2))
        active = ((score > 0) | (missing > 0)).float().sum() / batch.size
        return LossShare(batch.mean(loss), {"active": active})


class OnlineContrastive(MarginLoss):
    """Contrastive loss over the hard pairs of the global batch alone; a score of 0.5 and above is a right pair.

    Every rank finds the nearest wrong and the furthest right pair among all pairs; the terms are shared by rows. A
    batch of only right or only wrong pairs is compared with the mean of its own distances, as in Sentence Transformers.
    """

    type: Literal["online_contrastive"] = "online_contrastive"
    margin: float = 0.5
    reduction: Literal["sum", "mean"] = "sum"

    def assumes_positives(self) -> bool:
        """Return False: the score of a pair says whether it is right."""
        return False

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the sum over the hard pairs of the global batch, or of their mean."""
        right = need(batch.score, "scores", self.type, FIX) >= 0.5
        distance = paired_distance(batch.query, batch.positive, self.distance)
        with torch.no_grad():
            near, far = distance[~right], distance[right]
            furthest_right = far.max() if len(far) else near.mean()
            nearest_wrong = near.min() if len(near) else far.mean()
            hard = torch.where(right, distance > nearest_wrong, distance < furthest_right)
        missing = F.relu(self.margin_at(batch.progress) - distance)
        terms = torch.where(right, distance.pow(2), missing.pow(2)) * hard
        total = terms[batch.rows].sum()
        share = total if self.reduction == "sum" else total / hard.sum().clamp(min=1)
        return LossShare(share, {"active": hard[batch.rows].sum() / batch.size})
