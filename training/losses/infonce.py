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

from training.losses.masks import MaskConfig, document_mask, query_mask
from training.losses.objective import Batch, Objective, Share
from training.losses.tiled import Scores, scores


class InfoNCE(Objective):
    """Cross-entropy of the right document among all documents of the global batch."""

    type: Literal["infonce"] = "infonce"
    temperature: float = Field(0.05, gt=0, description="divides cosines; smaller is sharper")
    learn_temperature: bool = Field(False, description="let training adjust the temperature, as CLIP does")
    symmetric: bool = Field(False, description="also rank all queries for each document")
    tile: int | None = Field(None, ge=1, description="compute logits in tiles of this side, for batches of thousands")
    mask: MaskConfig = MaskConfig()

    def learned(self) -> dict[str, float]:
        """Return the log of the inverse temperature when it is learned."""
        return {"log_scale": -math.log(self.temperature)} if self.learn_temperature else {}

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over the N rows of the global batch."""
        scale = learned["log_scale"].exp() if self.learn_temperature else 1.0 / self.temperature
        own = batch.own
        documents = torch.cat([batch.positive, batch.negative]) if len(batch.negative) else batch.positive
        found = scores(
            batch.query[batch.rows],
            documents,
            scale,
            own,
            tile=self.tile,
            masked=lambda rows, columns, _: document_mask(batch, self.mask, rows, columns),
        )
        summed = (found.log_sum - scale * found.right).sum()
        if self.symmetric:
            back = scores(
                batch.positive[batch.rows],
                batch.query,
                scale,
                own,
                tile=self.tile,
                masked=lambda rows, columns, _: query_mask(batch, self.mask, rows, columns),
            )
            summed = (summed + (back.log_sum - scale * back.right).sum()) / 2
        return Share(summed / batch.size, _report(found, batch.size, len(documents)))


@torch.no_grad()
def _report(found: Scores, size: int, width: int) -> dict[str, Tensor]:
    """Shares of what a reader wants to see: masked places, similarity of positives and of the hardest negatives."""
    hardest = found.hardest.clamp(min=-1.0)
    return {
        "masked": found.masked.sum() / (width * size),
        "positive_similarity": found.right.sum() / size,
        "hardest_similarity": hardest.sum() / size,
        "accuracy": (found.right > hardest).float().sum() / size,
    }
