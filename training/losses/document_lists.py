"""The documents that came with a row, as a list: its positive first, then the others given with it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.loss import Batch, need


@dataclass(frozen=True)
class DocumentLists:
    """Document lists of this rank's n rows, padded to the longest.

    `index` [n, L] points into the documents of the batch; `present` [n, L] is False in the padding.
    """

    index: Tensor
    present: Tensor

    @classmethod
    def from_batch(cls, batch: Batch) -> "DocumentLists":
        """Make the lists of all documents that came with the rows of this rank."""
        owner = batch.negative_row[batch.negative_rows] - batch.rows.start
        count = torch.bincount(owner, minlength=len(batch.row_numbers))
        nth = torch.arange(len(owner), device=owner.device) - (count.cumsum(0) - count)[owner]
        index = batch.row_numbers[:, None].repeat(1, 1 + (int(count.max()) if len(owner) else 0))
        present = torch.zeros_like(index, dtype=torch.bool)
        present[:, 0] = True
        index[owner, 1 + nth] = batch.size + torch.arange(len(batch.negative), device=owner.device)[batch.negative_rows]
        present[owner, 1 + nth] = True
        return cls(index, present)

    def take(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Arrange values of positives [N] and negatives [M] as lists [n, L]; padding repeats the positive's."""
        return torch.cat([positive, negative.to(positive.dtype)])[self.index]


def teacher_scores(batch: Batch, loss: str) -> tuple[Tensor, Tensor]:
    """Return a teacher's scores of positives [N] and negatives [M]; NaN where it gave none."""
    fix = "train on rows: [mined], whose candidates carry the scores of the miner"
    return need(batch.teacher, "teacher scores", loss, fix), need(
        batch.negative_teacher, "teacher scores of negatives", loss, fix
    )


def per_row(batch: Batch, values: Tensor) -> Tensor:
    """Sums [N] over each row's negatives of values [M]."""
    return torch.zeros(batch.size, dtype=values.dtype, device=values.device).index_add(0, batch.negative_row, values)
