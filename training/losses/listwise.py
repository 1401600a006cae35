"""Listwise softmax on graded relevance: of a row's documents the better judged shall get the more probability.

With the row's own documents d, grades g and temperature t:
    loss_i = -sum_d p_d * log( exp(cos(q_i, d) / t) / sum_{d' in Z} exp(cos(q_i, d') / t) )
where p is softmax(g) (`softmax`, ListNet) or (2^g - 1) / sum (2^g - 1) (`gain`: what is judged irrelevant gets none),
and Z the row's own documents, or with `in_batch` all documents of the global batch that are not masked.
Sources: Cao et al. 2007 (Learning to Rank: From Pairwise Approach to Listwise Approach); the gain is that of nDCG.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from training.losses.document_lists import Lists, per_row
from training.losses.false_negatives import Limit, MaskConfig, document_mask
from training.losses.objective import Batch, Objective, Share, need
from training.losses.tiled_softmax import scores


class Listwise(Objective):
    """Cross-entropy with the distribution of the grades; without grades, given negatives have 0."""

    type: Literal["listwise"] = "listwise"
    temperature: float = Field(0.05, gt=0, description="divides cosines; smaller is sharper")
    target: Literal["gain", "softmax"] = Field("gain", description="how grades become probabilities")
    in_batch: bool = Field(False, description="rank against the documents of all rows; needs target gain")
    tile: int | None = Field(None, ge=1, description="compute logits of `in_batch` in tiles of this side")
    mask: MaskConfig = MaskConfig()

    @model_validator(mode="after")
    def _fits(self) -> "Listwise":
        if self.in_batch and self.target != "gain":
            raise ValueError("in_batch needs target gain: softmax would give every document a share")
        return self

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over the rows of the global batch, by weight; `gain` counts those with a grade above 0."""
        grade = need(batch.score, "grades", self.type, "train on rows: [judged]")
        others = grade.new_zeros(len(batch.negative)) if batch.negative_score is None else batch.negative_score
        lists = Lists.of(batch)
        wanted = self._target(lists.take(grade, others), lists.there)
        query = batch.query[batch.rows][:, None].expand(-1, wanted.shape[1], -1)
        logits = F.cosine_similarity(query, batch.documents[lists.place], dim=-1) / self.temperature
        if self.in_batch:
            total = self._all(batch, lists)
        else:
            total = logits.masked_fill(~lists.there, -torch.inf).logsumexp(dim=1)
        loss = total * wanted.sum(dim=1) - (wanted * logits).sum(dim=1)
        counted = None
        if self.target == "gain":
            counted = (grade > 0) | (per_row(batch, (others > 0).long()) > 0)
        with torch.no_grad():
            best = logits.masked_fill(~lists.there, -torch.inf).argmax(dim=1, keepdim=True)
            report = {"accuracy": (wanted.gather(1, best)[:, 0] == wanted.amax(dim=1)).sum() / batch.size}
        return Share(batch.mean(loss, counted), report)

    def _target(self, grade: Tensor, there: Tensor) -> Tensor:
        """Probabilities [n, L] of grades [n, L]; zeros where `gain` has nothing to share out."""
        if self.target == "softmax":
            return grade.masked_fill(~there, -torch.inf).softmax(dim=1)
        gain = (grade.clamp(min=0).exp2() - 1) * there
        return gain / gain.sum(dim=1, keepdim=True).clamp(min=torch.finfo(gain.dtype).tiny)

    def _all(self, batch: Batch, lists: Lists) -> Tensor:
        """Log-sum-exp [n] over all documents, without those that are masked; a row's own always stay."""
        limit = Limit(batch, self.mask)

        def masked(rows: slice, columns: slice, cosine: Tensor) -> Tensor:
            out = document_mask(batch, self.mask, rows, columns)
            if limit.sets:
                out |= limit(rows, columns, cosine, documents=True)
            return out & (batch.own[rows][:, None] != batch.document_row[columns])

        own = batch.query[batch.rows]
        return scores(own, batch.documents, 1.0 / self.temperature, batch.own, tile=self.tile, masked=masked).log_sum
