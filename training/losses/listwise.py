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

from training.losses.distance import SimilarityLoss, paired_similarity
from training.losses.document_lists import DocumentLists, per_row
from training.losses.false_negatives import MaskConfig, ScoreFilter, document_mask
from training.losses.loss import Batch, LossShare, need
from training.losses.tiled_softmax import row_scores


class Listwise(SimilarityLoss):
    """Cross-entropy with the distribution of the grades; without grades, given negatives have 0."""

    type: Literal["listwise"] = "listwise"
    temperature: float = Field(
        0.05, gt=0, description="divides similarities; smaller is sharper; 1 where a model compares by inner products"
    )
    target: Literal["gain", "softmax"] = Field("gain", description="how grades become probabilities")
    in_batch: bool = Field(False, description="rank against the documents of all rows; needs target gain")
    tile: int | None = Field(None, ge=1, description="compute logits of `in_batch` in tiles of this side")
    mask: MaskConfig = MaskConfig()

    @model_validator(mode="after")
    def _fits(self) -> "Listwise":
        if self.in_batch and self.target != "gain":
            raise ValueError("in_batch needs target gain: softmax would give every document a share")
        return self

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the rows of the global batch, by weight; `gain` counts those with a grade above 0."""
        grade = need(batch.score, "grades", self.type, "train on rows: [judged]")
        others = grade.new_zeros(len(batch.negative)) if batch.negative_score is None else batch.negative_score
        lists = DocumentLists.from_batch(batch)
        target = self._target(lists.take(grade, others), lists.present)
        query = batch.query[batch.rows][:, None].expand(-1, target.shape[1], -1)
        logits = paired_similarity(query, batch.documents[lists.index], self.similarity) / self.temperature
        if self.in_batch:
            total = self._in_batch_log_sum(batch, lists)
        else:
            total = logits.masked_fill(~lists.present, -torch.inf).logsumexp(dim=1)
        loss = total * target.sum(dim=1) - (target * logits).sum(dim=1)
        counted = None
        if self.target == "gain":
            counted = (grade > 0) | (per_row(batch, (others > 0).long()) > 0)
        with torch.no_grad():
            best = logits.masked_fill(~lists.present, -torch.inf).argmax(dim=1, keepdim=True)
            report = {"accuracy": (target.gather(1, best)[:, 0] == target.amax(dim=1)).sum() / batch.size}
        return LossShare(batch.mean(loss, counted), report)

    def _target(self, grade: Tensor, present: Tensor) -> Tensor:
        """Probabilities [n, L] of grades [n, L]; zeros where `gain` has nothing to share out."""
        if self.target == "softmax":
            return grade.masked_fill(~present, -torch.inf).softmax(dim=1)
        gain = (grade.clamp(min=0).exp2() - 1) * present
        return gain / gain.sum(dim=1, keepdim=True).clamp(min=torch.finfo(gain.dtype).tiny)

    def _in_batch_log_sum(self, batch: Batch, lists: DocumentLists) -> Tensor:
        """Log-sum-exp [n] over all documents that are not masked; those that came with the row never are."""
        score_filter = ScoreFilter(batch, self.mask, self.similarity)

        def mask(rows: slice, columns: slice, cosine: Tensor) -> Tensor:
            masked = document_mask(batch, self.mask, rows, columns)
            if score_filter.active:
                masked |= score_filter(rows, columns, cosine, documents=True)
            return masked & (batch.row_numbers[rows][:, None] != batch.document_row[columns])

        query = batch.query[batch.rows]
        return row_scores(
            query,
            batch.documents,
            1.0 / self.temperature,
            batch.row_numbers,
            tile=self.tile,
            masked=mask,
            similarity=self.similarity,
        ).log_sum
