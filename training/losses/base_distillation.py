"""Embedding distillation from the base: no text of the batch may move far from where the untrained model had it.

    loss = mean over all texts x of the global batch of 1 - cos(tuned(x), base(x))
Texts are the queries, their documents and the given negatives; base(x) comes from a frozen copy, encoded in the same
step, so that it is never stale. It is meant as one term of a weighted sum.
Source: the penalty on features of Learning without Forgetting (Li and Hoiem 2016, arXiv 1606.09282), on embeddings.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.loss import Batch, Loss, LossShare, need


class BaseDistillation(Loss):
    """How far the texts of the batch have moved from the base, as 1 - cosine."""

    type: Literal["base_distillation"] = "base_distillation"

    def assumes_positives(self) -> bool:
        """Return False: every text stands by itself, no pair is taken for right."""
        return False

    def needs_base(self) -> bool:
        """Return True: the vectors of the base are what it compares with."""
        return True

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the 2 N + M texts: a sum over this rank's texts, since each stands by itself."""
        base = need(batch.base, "vectors of the base", self.type, "the training step encodes them")
        tuned = torch.cat([batch.query[batch.rows], batch.positive[batch.rows], batch.negative[batch.negative_rows]])
        moved = (1.0 - F.cosine_similarity(tuned, base, dim=1)).sum() / (2 * batch.size + len(batch.negative))
        return LossShare(moved, {"moved": moved.detach()})
