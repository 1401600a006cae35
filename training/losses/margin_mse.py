"""MarginMSE: the student shall have the teacher's margin between positive and negative.

    loss = mean over given triplets of ((s(q, p) - s(q, n)) - (t(q, p) - t(q, n)))^2
Source: Hofstaetter et al. 2020 (arXiv 2010.02666).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from training.losses.distance import SimilarityLoss, paired_similarity
from training.losses.document_lists import teacher_scores
from training.losses.loss import Batch, LossShare


class MarginMSE(SimilarityLoss):
    """Squared error of the student's margins against the teacher's; triplets without teacher scores do not count."""

    type: Literal["margin_mse"] = "margin_mse"

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the given triplets that the teacher has scored, by weight of the row."""
        positive, negative = teacher_scores(batch, self.type)
        margin = positive[batch.negative_row] - negative
        weight = margin.isfinite().to(margin.dtype)
        scored = weight.mean() if len(weight) else weight.sum()
        if batch.weight is not None:
            weight = weight * batch.weight[batch.negative_row]
        local = batch.negative_rows
        row = batch.negative_row[local]
        near = paired_similarity(batch.query[row], batch.positive[row], self.similarity)
        error = (
            near
            - paired_similarity(batch.query[row], batch.negative[local], self.similarity)
            - margin[local].nan_to_num()
        )
        total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        loss = (error.pow(2) * weight[local]).sum() / total + 0.0 * batch.query.sum()
        return LossShare(loss, {"scored": batch.rank_share(scored)})
