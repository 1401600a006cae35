"""MarginMSE: the student's margin between positive and negative shall be the teacher's.

    loss = mean over given triplets of ((s(q, p) - s(q, n)) - (t(q, p) - t(q, n)))^2
Source: Hofstaetter et al. 2020 (arXiv 2010.02666).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from training.losses.distance import Similarity, similar
from training.losses.document_lists import teacher_scores
from training.losses.objective import Batch, Objective, Share


class MarginMSE(Objective):
    """Regression of margins on a teacher's; triplets without both of its scores do not count."""

    type: Literal["margin_mse"] = "margin_mse"
    similarity: Similarity = "cosine"

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over the given triplets that the teacher has scored, by weight of the row."""
        positive, negative = teacher_scores(batch, self.type)
        margin = positive[batch.negative_row] - negative
        weight = margin.isfinite().to(margin.dtype)
        scored = weight.mean() if len(weight) else weight.sum()
        if batch.weight is not None:
            weight = weight * batch.weight[batch.negative_row]
        own = batch.negative_rows
        row = batch.negative_row[own]
        near = similar(batch.query[row], batch.positive[row], self.similarity)
        error = near - similar(batch.query[row], batch.negative[own], self.similarity) - margin[own].nan_to_num()
        total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        loss = (error.pow(2) * weight[own]).sum() / total + 0.0 * batch.query.sum()
        return Share(loss, {"scored": batch.whole(scored)})
