"""InfoNCE over the global batch, also called multiple-negatives ranking.

For row i with query q_i, its document d_i, all documents D = (positives, negatives) of all ranks and temperature t:
    loss_i = -log( exp(cos(q_i, d_i) / t) / sum_{d in D} exp(cos(q_i, d) / t) )
Sources: van den Oord et al. 2018 (arXiv 1807.03748); Henderson et al. 2017 (arXiv 1705.00652).
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from training.losses.masks import MaskConfig, document_mask, query_mask
from training.losses.objective import Batch, Objective, Share


class InfoNCE(Objective):
    """Cross-entropy of the right document among all documents of the global batch."""

    type: Literal["infonce"] = "infonce"
    temperature: float = Field(0.05, gt=0, description="divides cosines; smaller is sharper")
    learn_temperature: bool = Field(False, description="let training adjust the temperature, as CLIP does")
    symmetric: bool = Field(False, description="also rank all queries for each document")
    mask: MaskConfig = MaskConfig()

    def learned(self) -> dict[str, float]:
        """Return the log of the inverse temperature when it is learned."""
        return {"log_scale": -math.log(self.temperature)} if self.learn_temperature else {}

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over the N rows of the global batch."""
        scale = learned["log_scale"].exp() if self.learn_temperature else 1.0 / self.temperature
        query, positive, negative = (F.normalize(x, dim=-1) for x in (batch.query, batch.positive, batch.negative))
        own, target = batch.rows, batch.own
        cosine = query[own] @ torch.cat([positive, negative]).T
        masked = document_mask(batch, self.mask)
        summed = _cross_entropy(cosine * scale, masked, target)
        if self.symmetric:
            backward = positive[own] @ query.T
            summed = (summed + _cross_entropy(backward * scale, query_mask(batch, self.mask), target)) / 2
        return Share(summed / batch.size, _report(cosine, masked, target, batch.size))


def _cross_entropy(logits: Tensor, masked: Tensor, target: Tensor) -> Tensor:
    """Summed cross-entropy of logits [n, C] with places masked [n, C] left out of the denominator."""
    return F.cross_entropy(logits.masked_fill(masked, float("-inf")), target, reduction="sum")


@torch.no_grad()
def _report(cosine: Tensor, masked: Tensor, target: Tensor, size: int) -> dict[str, Tensor]:
    """Shares of what a reader wants to see: masked places, similarity of positives and of the hardest negatives."""
    right = cosine.gather(1, target[:, None]).squeeze(1)
    others = cosine.masked_fill(masked, -1.0).scatter(1, target[:, None], -1.0)
    hardest = others.max(dim=1).values if len(cosine) else right
    return {
        "masked": masked.float().mean(dim=1).sum() / size,
        "positive_similarity": right.sum() / size,
        "hardest_similarity": hardest.sum() / size,
        "accuracy": (right > hardest).float().sum() / size,
    }
