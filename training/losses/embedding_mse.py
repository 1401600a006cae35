"""Mean squared error of embeddings: the student shall have the very vectors of its teacher.

    loss = mean over texts x with a teacher's vector, and over the D dimensions, of (student(x) - teacher(x))^2
Texts are the queries, their documents and the given negatives. With vectors of length 1, as by default, this is
2 (1 - cos) / D. A teacher of another width is projected before training (training/data/teacher_projection.py).
Source: Reimers and Gurevych 2020 (arXiv 2004.09813), on vectors of one text by two models.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.errors import UserError
from training.losses.loss import Batch, Loss, LossShare
from training.losses.teacher_vectors import TaughtTexts


class EmbeddingMSE(Loss):
    """Squared distance of the student's vectors from the teacher's; texts without a teacher's vector do not count."""

    type: Literal["embedding_mse"] = "embedding_mse"
    normalize: bool = Field(True, description="compare directions, at length 1; else vectors as they are")

    def assumes_positives(self) -> bool:
        """Return False: every text stands by itself, no pair is taken for right."""
        return False

    def needs_teacher(self) -> bool:
        """Return True: a teacher's vectors are what it compares with."""
        return True

    def needs_teacher_width(self) -> bool:
        """Return True: it compares dimension by dimension."""
        return True

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the taught texts: a sum over this rank's, since each stands by itself."""
        texts = TaughtTexts.from_batch(batch, self.type)
        width = texts.student.shape[1]
        student, teacher = texts.student[texts.local], _of_width(texts.teacher, width)[texts.local]
        near = (F.cosine_similarity(student, teacher, dim=1) * texts.taught[texts.local]).detach()
        if self.normalize:
            student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
        count = texts.taught.sum().clamp(min=1)
        error = (student - teacher).pow(2).sum(dim=1) * texts.taught[texts.local]
        report = {"taught": texts.share, "teacher_cosine": near.sum() / count}
        return LossShare(error.sum() / (count * width), report)


def _of_width(teacher: Tensor, width: int) -> Tensor:
    """The teacher's vectors [T, G] as [T, width], without the zeros that fill G to words of 64 bits.

    Raises UserError where the teacher is of another width.
    """
    wide = teacher.shape[1]
    if wide == width:
        return teacher
    if width < wide < width + 4 and not bool(teacher[:, width:].any()):
        return teacher[:, :width]
    raise UserError(
        f"loss embedding_mse: the teacher's vectors are {wide} wide, the model's {width}; project them with "
        "training.data.teacher_projection, as the training job does, or take relative_distillation"
    )
