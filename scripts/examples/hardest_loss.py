"""A loss of your own: a hinge between the positive and the hardest other document of the global batch.

    loss_i = max(0, margin - cos(q_i, d_i) + max_j cos(q_i, d_j))

Put the file beside your recipe and name the class by its import path:

    train:
      loss: {type: hardest_loss:Hardest, margin: 0.2}

From Python it is `tripletail.train(loss=Hardest(margin=0.2), ...)`. The batch holds the vectors of all workers; a loss
returns this worker's share of the mean over all rows, and the gradient is that of one big machine.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from training.losses.false_negatives import MaskConfig, document_mask
from training.losses.loss import Batch, Loss, LossShare


class Hardest(Loss):
    """Hinge on the most similar document that is neither the row's own nor known to be relevant."""

    margin: float = Field(0.2, ge=0, le=2, description="how much nearer than any other the positive must be")

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the N rows of the global batch, by weight."""
        rows = batch.row_numbers
        cosines = F.normalize(batch.query[batch.rows], dim=1) @ F.normalize(batch.documents, dim=1).T  # [n, N + M]
        positive = cosines[torch.arange(len(rows)), rows]
        excluded = document_mask(batch, MaskConfig())
        excluded[torch.arange(len(rows)), rows] = True
        hardest = cosines.masked_fill(excluded, -1.0).amax(dim=1)
        losses = F.relu(self.margin - positive + hardest)
        report = {"active": (losses.detach() > 0).float().sum() / batch.size}
        return LossShare(batch.mean(losses), report)
