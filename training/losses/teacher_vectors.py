"""The vectors that a teacher gave to the texts of a batch, beside the student's, for distillation of embeddings.

They were computed beforehand by the embed job and travel with the rows as those of a guide do
(training/data/guide_vectors.py): float16, NaN where a text has none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.loss import Batch, need

FIX = (
    "give guide: {queries: ..., documents: ...}, two artifacts of `tripletail embed` with the teacher as encoder.model"
)


@dataclass(frozen=True)
class TaughtTexts:
    """All texts of the global batch: queries, positives, negatives, T = 2 N + M.

    `student` [T, D] with gradient and `teacher` [T, G] without, NaN-free where `taught` [T] is true and zero elsewhere.
    `local` [t] are this rank's texts.
    """

    student: Tensor
    teacher: Tensor
    taught: Tensor
    local: Tensor

    @classmethod
    def from_batch(cls, batch: Batch, loss: str) -> "TaughtTexts":
        """Take the texts of a batch; raises UserError where the rows came without vectors of a teacher."""
        query = need(batch.query_guide, "vectors of a teacher", loss, FIX)
        columns = [(query, batch.size), (batch.positive_guide, batch.size), (batch.negative_guide, len(batch.negative))]
        absent = query.new_full((1, query.shape[1]), torch.nan)
        teacher = torch.cat([absent.expand(count, -1) if column is None else column for column, count in columns])
        teacher = teacher.to(batch.query.dtype)
        taught = teacher[:, 0].isfinite() if teacher.shape[1] else torch.zeros(len(teacher), dtype=torch.bool)
        texts = torch.arange(len(teacher), device=batch.query.device)
        local = [texts[: batch.size][batch.rows], texts[batch.size : 2 * batch.size][batch.rows]]
        local.append(texts[2 * batch.size :][batch.negative_rows])
        student = torch.cat([batch.query, batch.positive, batch.negative])
        return cls(student, teacher.masked_fill(~taught[:, None], 0.0), taught, torch.cat(local))

    @property
    def share(self) -> Tensor:
        """Part of the share of texts with a teacher's vector that this rank's texts are."""
        return self.taught[self.local].sum() / max(1, len(self.taught))
