"""Binary cross-entropy: each document by itself is right for the query or not. For rerankers.

With a pair's logit s and its target t, which is 1 for a positive and 0 for a negative, or the grade or score that the
row gives it, at most 1:
    loss = mean over pairs of -(w t log sigmoid(s) + (1 - t) log(1 - sigmoid(s)))
Source: Nogueira and Cho 2019 (monoBERT, arXiv 1901.04085).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from training.losses.distance import paired_similarity
from training.losses.loss import Batch, Loss, LossShare


class BinaryCrossEntropy(Loss):
    """Mean over all pairs of the global batch, by the weight of their rows."""

    type: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    pos_weight: float = Field(1.0, gt=0, description="what a positive counts; the negatives of a row balance the two")

    def assumes_positives(self) -> bool:
        """Return False: a row's score says whether its document is right."""
        return False

    def compares_by(self) -> str:
        """Return dot: a logit is the inner product of [1] and [logit]."""
        return "dot"

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the N + M pairs of the global batch."""
        row = batch.document_row
        local = torch.cat(
            [batch.row_numbers, batch.size + torch.arange(len(batch.negative))[batch.negative_rows].to(row)]
        )
        logit = paired_similarity(batch.query[row[local]], batch.documents[local], "dot")
        target = _targets(batch, logit)[local]
        weight = torch.ones_like(row, dtype=logit.dtype) if batch.weight is None else batch.weight[row].to(logit)
        pos_weight = torch.full_like(logit, self.pos_weight)
        values = F.binary_cross_entropy_with_logits(
            logit, target, weight[local], reduction="sum", pos_weight=pos_weight
        )
        right = ((logit > 0) == (target > 0.5)).to(logit) * weight[local]
        total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        return LossShare(values / total, {"accuracy": right.sum() / total})


def _targets(batch: Batch, like: Tensor) -> Tensor:
    """Targets [N + M] of positives and negatives, between 0 and 1."""
    positive = like.new_ones(batch.size) if batch.score is None else batch.score.to(like).nan_to_num(1.0)
    others = batch.negative_score
    negative = like.new_zeros(len(batch.negative)) if others is None else others.to(like).nan_to_num(0.0)
    return torch.cat([positive, negative]).clamp(0.0, 1.0)
