"""Pairwise sigmoid loss: every (query, document) of the global batch is right or wrong by itself.

With z_ij = 1 where document j is row i's own, else -1, learnable scale c and bias b:
    loss = -1/N * sum_ij log sigmoid(z_ij * (c * cos(q_i, d_j) + b))
No softmax couples the pairs, so zero has to be normalised over devices. Masked pairs are left out.
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

from training.losses.false_negatives import MaskConfig, ScoreFilter, document_mask
from training.losses.loss import Batch, Loss, LossShare


class Sigmoid(Loss):
    """Binary cross-entropy over all (query, document) pairs; scale and bias are learned, as in the paper."""

    type: Literal["sigmoid"] = "sigmoid"
    scale: float = Field(10.0, gt=0, description="initial factor of cosines")
    bias: float = Field(-10.0, description="initial bias: most pairs are wrong")
    tile: int | None = Field(None, ge=1, description="rows whose logits are held at once, for batches of thousands")
    mask: MaskConfig = MaskConfig()

    def learnable(self) -> dict[str, float]:
        """Return the log of the scale, and the bias."""
        return {"log_scale": math.log(self.scale), "bias": self.bias}

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the sum over all pairs, divided by the weight of all rows (N without weights)."""
        unit, documents = F.normalize(batch.query[batch.rows], dim=1), F.normalize(batch.documents, dim=1)
        score_filter = ScoreFilter(batch, self.mask)
        count = len(unit)
        strip = self.tile or max(1, count)
        losses, masked = [], []
        for start in range(0, count, strip):
            rows = slice(start, min(start + strip, count))
            loss, masked_count = (
                checkpoint(self._strip, unit[rows], documents, scalars, batch, score_filter, rows, use_reentrant=False)
                if self.tile
                else self._strip(unit[rows], documents, scalars, batch, score_filter, rows)
            )
            losses.append(loss)
            masked.append(masked_count)
        zero = 0.0 * (unit.sum() + documents.sum() + sum(scalars.values()))
        per_row = torch.cat(losses) if losses else unit.sum(dim=1)
        report = {"masked": sum(masked, zero.detach()) / (batch.size * len(documents))}
        return LossShare(batch.mean(per_row) + zero, report)

    def _strip(
        self,
        unit: Tensor,
        documents: Tensor,
        scalars: Mapping[str, Tensor],
        batch: Batch,
        score_filter: ScoreFilter,
        rows: slice,
    ) -> tuple[Tensor, Tensor]:
        """Losses [r] of some of this rank's rows, and how many of their pairs are masked."""
        cosine = unit @ documents.T
        columns = slice(0, len(documents))
        masked = document_mask(batch, self.mask, rows, columns)
        if score_filter.active:
            masked |= score_filter(rows, columns, cosine.detach(), documents=True)
        right = batch.row_numbers[rows][:, None] == torch.arange(len(documents), device=unit.device)
        logits = scalars["log_scale"].exp() * cosine + scalars["bias"]
        losses = F.softplus(torch.where(right, -logits, logits)).masked_fill(masked, 0.0)
        return losses.sum(dim=1), masked.sum()
