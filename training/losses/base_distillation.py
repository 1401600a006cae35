"""Embedding distillation to the base: no text of the batch shall go far from where the base had it.

    loss = mean over all texts x of the global batch of 1 - cos(tuned(x), base(x))
Texts are the queries, their documents and the documents given with them; base(x) comes from a frozen copy, encoded in
the same step, so that it is never stale. It is meant as one term of a sum.
Source: the penalty on features of Learning without Forgetting (Li and Hoiem 2016, arXiv 1606.09282), on embeddings.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.objective import Batch, Objective, Share, need


class Keep(Objective):
    """How far the texts of the batch have moved from the base, as 1 - cosine."""

    type: Literal["keep"] = "keep"

    def trusts(self) -> bool:
        """No: it asks each text where it was, and no pair whether it is right."""
        return False

    def needs_base(self) -> bool:
        """It compares with the base."""
        return True

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over the 2 N + M texts: a sum over this rank's own, since each text stands by itself."""
        base = need(batch.base, "vectors of the base", "keep", "the loop encodes them where a loss needs them")
        own = torch.cat([batch.query[batch.rows], batch.positive[batch.rows], batch.negative[batch.negative_rows]])
        moved = (1.0 - F.cosine_similarity(own, base, dim=1)).sum() / (2 * batch.size + len(batch.negative))
        return Share(moved, {"moved": moved.detach()})
