"""Distillation by distribution: the student ranks the documents of a row as the teacher does.

With the row's own documents d (its positive and its given negatives), scores s and t, temperatures T_s and T_t:
    loss_i = T_s^2 * KL( softmax(t / T_t) || softmax(s / T_s) )
Sources: Hinton et al. 2015 (arXiv 1503.02531); Lin et al. 2020 (TCT-ColBERT, arXiv 2010.11386).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from training.losses.distance import Similarity, similar
from training.losses.document_lists import Lists, per_row, teacher_scores
from training.losses.objective import Batch, Objective, Share


class KL(Objective):
    """Divergence over a row's own documents; rows with fewer than two scored ones do not count."""

    type: Literal["kl"] = "kl"
    temperature: float = Field(0.05, gt=0, description="divides the student's similarities")
    teacher_temperature: float = Field(0.05, gt=0, description="divides the teacher's scores")
    similarity: Similarity = "cosine"

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over the scored rows of the global batch, by weight."""
        positive, negative = teacher_scores(batch, self.type)
        counted = positive.isfinite() & (per_row(batch, negative.isfinite().long()) > 0)
        lists = Lists.of(batch)
        teacher = lists.take(positive, negative)
        there = lists.there & teacher.isfinite()
        there[:, 0] = True
        query = batch.query[batch.rows][:, None].expand(-1, there.shape[1], -1)
        student = similar(query, batch.documents[lists.place], self.similarity) / self.temperature
        found = student.masked_fill(~there, -torch.inf).log_softmax(dim=1)
        wanted = (teacher.nan_to_num() / self.teacher_temperature).masked_fill(~there, -torch.inf).log_softmax(dim=1)
        terms = (wanted.exp() * (wanted - found)).masked_fill(~there, 0.0)
        loss = batch.mean(terms.sum(dim=1) * self.temperature**2, counted)
        return Share(loss, {"scored": counted[batch.rows].sum() / batch.size})
