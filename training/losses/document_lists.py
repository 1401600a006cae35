"""The documents that came with a row, as a list: its positive first, then the others given with it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.objective import Batch, need


@dataclass(frozen=True)
class Lists:
    """Lists of this rank's n rows, padded to the longest: `place` [n, L] in the documents, and what is `there`."""

    place: Tensor
    there: Tensor

    @classmethod
    def of(cls, batch: Batch) -> "Lists":
        """Lists of all documents of the rank's own rows."""
        owner = batch.negative_row[batch.negative_rows] - batch.rows.start
        count = torch.bincount(owner, minlength=len(batch.own))
        nth = torch.arange(len(owner), device=owner.device) - (count.cumsum(0) - count)[owner]
        place = batch.own[:, None].repeat(1, 1 + (int(count.max()) if len(owner) else 0))
        there = torch.zeros_like(place, dtype=torch.bool)
        there[:, 0] = True
        place[owner, 1 + nth] = batch.size + torch.arange(len(batch.negative), device=owner.device)[batch.negative_rows]
        there[owner, 1 + nth] = True
        return cls(place, there)

    def take(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Arrange values of positives [N] and negatives [M] as lists [n, L]; padding holds the positive's."""
        return torch.cat([positive, negative.to(positive.dtype)])[self.place]


def teacher_scores(batch: Batch, loss: str) -> tuple[Tensor, Tensor]:
    """Return a teacher's scores of positives [N] and negatives [M]; NaN where it gave none."""
    fix = "train on rows: [mined], whose candidates carry the scores of the miner"
    return need(batch.teacher, "teacher scores", loss, fix), need(
        batch.negative_teacher, "teacher scores of negatives", loss, fix
    )


def per_row(batch: Batch, values: Tensor) -> Tensor:
    """Sums [N] over each row's negatives of values [M]."""
    return torch.zeros(batch.size, dtype=values.dtype, device=values.device).index_add(0, batch.negative_row, values)
