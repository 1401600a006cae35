"""Pairwise sigmoid loss: every (query, document) of the global batch is right or wrong by itself.

With z_ij = 1 where document j is row i's own, else -1, learned scale c and bias b:
    loss = -1/N * sum_ij log sigmoid(z_ij * (c * cos(q_i, d_j) + b))
No softmax couples the places, so none is needed over devices. Masked places are left out.
Source: Zhai et al. 2023 (SigLIP, arXiv 2303.15343).
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from training.losses.false_negatives import Limit, MaskConfig, document_mask
from training.losses.objective import Batch, Objective, Share


class Sigmoid(Objective):
    """Binary cross-entropy of all places; scale and bias start where the paper has them and are learned."""

    type: Literal["sigmoid"] = "sigmoid"
    scale: float = Field(10.0, gt=0, description="initial factor of cosines")
    bias: float = Field(-10.0, description="initial bias: most places are wrong")
    tile: int | None = Field(None, ge=1, description="rows whose places are held at once, for batches of thousands")
    mask: MaskConfig = MaskConfig()

    def learned(self) -> dict[str, float]:
        """Return the log of the scale, and the bias."""
        return {"log_scale": math.log(self.scale), "bias": self.bias}

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the sum over all places, divided by the weight of all rows (N without weights)."""
        unit, documents = F.normalize(batch.query[batch.rows], dim=1), F.normalize(batch.documents, dim=1)
        limit = Limit(batch, self.mask)
        count = len(unit)
        strip = self.tile or max(1, count)
        losses, masked = [], []
        for start in range(0, count, strip):
            rows = slice(start, min(start + strip, count))
            one = (
                checkpoint(self._strip, unit[rows], documents, learned, batch, limit, rows, use_reentrant=False)
                if self.tile
                else self._strip(unit[rows], documents, learned, batch, limit, rows)
            )
            losses.append(one[0])
            masked.append(one[1])
        nothing = 0.0 * (unit.sum() + documents.sum() + sum(learned.values()))
        per_row = torch.cat(losses) if losses else unit.sum(dim=1)
        report = {"masked": sum(masked, nothing.detach()) / (batch.size * len(documents))}
        return Share(batch.mean(per_row) + nothing, report)

    def _strip(
        self,
        unit: Tensor,
        documents: Tensor,
        learned: Mapping[str, Tensor],
        batch: Batch,
        limit: Limit,
        rows: slice,
    ) -> tuple[Tensor, Tensor]:
        """Losses [r] of some of this rank's rows, and how many of their places are masked."""
        cosine = unit @ documents.T
        columns = slice(0, len(documents))
        masked = document_mask(batch, self.mask, rows, columns)
        if limit.sets:
            masked |= limit(rows, columns, cosine.detach(), documents=True)
        right = batch.own[rows][:, None] == torch.arange(len(documents), device=unit.device)
        logits = learned["log_scale"].exp() * cosine + learned["bias"]
        losses = F.softplus(torch.where(right, -logits, logits)).masked_fill(masked, 0.0)
        return losses.sum(dim=1), masked.sum()
