"""Relative distillation of embeddings: texts shall lie to one another as they do for the teacher.

    loss = mean over pairs (i, j) of taught texts of (cos(s_i, s_j) - cos(t_i, t_j))^2
over all texts of the global batch: queries, their documents and the given negatives. Only cosines are compared, so that
the two models may have any widths, and the student is free to choose its own axes.
Source: Park et al. 2019 (Relational Knowledge Distillation, arXiv 1904.05068), with cosines in place of distances.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from training.losses.loss import Batch, Loss, LossShare
from training.losses.teacher_vectors import TaughtTexts


class RelativeDistillation(Loss):
    """Squared error of the cosines of all pairs of texts; those with a text without a teacher's vector do not count."""

    type: Literal["relative_distillation"] = "relative_distillation"
    tile: int | None = Field(None, ge=1, description="compare so many texts with all others at a time, to bound memory")

    def assumes_positives(self) -> bool:
        """Return False: the teacher alone says which texts are alike."""
        return False

    def needs_teacher(self) -> bool:
        """Return True: a teacher's vectors are what it compares with."""
        return True

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the pairs: those of this rank's texts with all texts."""
        texts = TaughtTexts.from_batch(batch, self.type)
        student, teacher = F.normalize(texts.student, dim=1), F.normalize(texts.teacher, dim=1)
        taught = texts.taught.to(student.dtype)
        total = student.new_zeros(())
        for rows in torch.split(texts.local, self.tile or max(1, len(texts.local))):
            if len(rows):
                strip = (student, teacher, taught, rows)
                error = _error(*strip) if self.tile is None else _recomputed(*strip)
                total = total + error
        pairs = taught.sum().pow(2).clamp(min=1)
        return LossShare(total / pairs + 0.0 * student.sum(), {"taught": texts.share})


def _error(student: Tensor, teacher: Tensor, taught: Tensor, rows: Tensor) -> Tensor:
    """Sum of the squared errors of some rows [r] of the matrix of cosines [T, T]."""
    apart = student[rows] @ student.T - teacher[rows] @ teacher.T
    return (apart.pow(2) * taught[rows][:, None] * taught).sum()


def _recomputed(student: Tensor, teacher: Tensor, taught: Tensor, rows: Tensor) -> Tensor:
    """The same, computed once more in backward: nothing of the size of the matrix is kept."""
    error = checkpoint(_error, student, teacher, taught, rows, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(error, torch.Tensor)
    return error
