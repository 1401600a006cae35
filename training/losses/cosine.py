"""Cosine regression on graded similarity.

    loss_i = (cos(q_i, d_i) - score_i)^2
Source: Reimers and Gurevych 2019 (Sentence-BERT, arXiv 1908.10084).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.loss import Batch, Loss, LossShare, need


class Cosine(Loss):
    """Squared difference of cosine and score, which lies between -1 and 1."""

    type: Literal["cosine"] = "cosine"

    def assumes_positives(self) -> bool:
        """Return False: the score of a pair says whether it is right."""
        return False

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the N pairs (query, positive) of the global batch, by weight."""
        score = need(batch.score, "scores", self.type, "train on rows: [labelled]")[batch.rows]
        cosine = F.cosine_similarity(batch.query[batch.rows], batch.positive[batch.rows], dim=1)
        with torch.no_grad():
            report = {"absolute_error": (cosine - score).abs().sum() / batch.size}
        return LossShare(batch.mean((cosine - score).pow(2)), report)
