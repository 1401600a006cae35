"""KL distillation: the student shall rank the documents of a row as the teacher does.

With the row's own documents d (its positive and its given negatives), scores s and t, temperatures T_s and T_t:
    loss_i = T_s^2 * KL( softmax(t / T_t) || softmax(s / T_s) )
Sources: Hinton et al. 2015 (arXiv 1503.02531); Lin et al. 2020 (TCT-ColBERT, arXiv 2010.11386).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from training.losses.distance import SimilarityLoss, paired_similarity
from training.losses.document_lists import DocumentLists, per_row, teacher_scores
from training.losses.loss import Batch, LossShare


class KL(SimilarityLoss):
    """Divergence over a row's own documents; rows with fewer than two scored ones do not count."""

    type: Literal["kl"] = "kl"
    temperature: float = Field(0.05, gt=0, description="divides the student's similarities; 1 for inner products")
    teacher_temperature: float = Field(0.05, gt=0, description="divides the teacher's scores")

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the scored rows of the global batch, by weight."""
        positive, negative = teacher_scores(batch, self.type)
        counted = positive.isfinite() & (per_row(batch, negative.isfinite().long()) > 0)
        lists = DocumentLists.from_batch(batch)
        teacher = lists.take(positive, negative)
        present = lists.present & teacher.isfinite()
        present[:, 0] = True
        query = batch.query[batch.rows][:, None].expand(-1, present.shape[1], -1)
        student = paired_similarity(query, batch.documents[lists.index], self.similarity) / self.temperature
        predicted = student.masked_fill(~present, -torch.inf).log_softmax(dim=1)
        target = (teacher.nan_to_num() / self.teacher_temperature).masked_fill(~present, -torch.inf).log_softmax(dim=1)
        terms = (target.exp() * (target - predicted)).masked_fill(~present, 0.0)
        loss = batch.mean(terms.sum(dim=1) * self.temperature**2, counted)
        return LossShare(loss, {"scored": counted[batch.rows].sum() / batch.size})
