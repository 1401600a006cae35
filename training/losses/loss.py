"""What a loss is given and what it returns: the embedded global batch, and one rank's share of the loss.

A loss is defined on the global batch. Each rank returns its share; shares sum to the loss on the global batch, which
is what makes the gradient independent of the number of ranks (training/losses/gather.py). A loss that is a sum over
rows shares by rows. One that is not (a log-sum-exp over all pairs) is computed in full by every rank from the gathered
vectors, and each rank returns the part of it that its rows are of all rows.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from pipeline.core.config import Plugin
from pipeline.core.errors import UserError
from training.losses.gather import Gathered

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """The embedded global batch as one rank sees it: rows of all ranks, and which of them are this rank's.

    `query` [N, D] and `positive` [N, D] are aligned by row; `negative` [M, D], in order of rows, belongs to the row
    that `negative_row` [M] names. `rows` and `negative_rows` are the slices of this rank. A column that the training
    rows do not have is None.
    """

    query: Tensor
    positive: Tensor
    negative: Tensor
    negative_row: Tensor
    rows: slice
    negative_rows: slice
    query_id: Tensor | None = None  # [N] 64-bit, as all ids
    positive_id: Tensor | None = None  # [N]
    negative_id: Tensor | None = None  # [M]
    relevant_id: Tensor | None = None  # [N, K] documents known to be relevant to the row's query, padded with -1
    positive_cluster: Tensor | None = None  # [N] near-duplicate cluster of the document, -1 for none
    negative_cluster: Tensor | None = None  # [M]
    relevant_cluster: Tensor | None = None  # [N, K] clusters of those documents
    label: Tensor | None = None  # [N] class of the row, for batch_triplet
    score: Tensor | None = None  # [N] similarity or judged relevance of query and positive
    negative_score: Tensor | None = None  # [M] the same of the other documents; they are positives above 0
    teacher: Tensor | None = None  # [N] a teacher's score of query and positive, NaN where it gave none
    negative_teacher: Tensor | None = None  # [M]
    query_guide: Tensor | None = None  # [N, G] vectors of another model, NaN for none; no gradient
    positive_guide: Tensor | None = None  # [N, G]
    negative_guide: Tensor | None = None  # [M, G]
    weight: Tensor | None = None  # [N] weight of the row in a mean over rows
    source: Tensor | None = None  # [N] id of the row's source, where batches hold rows of one source each
    base: Tensor | None = None  # [n + n + m, D] the frozen base's vectors of this rank's texts
    step: int = 0
    progress: float = 0.0  # share of the training that is done, 0 to 1

    @classmethod
    def from_gathered(
        cls, gathered: Gathered, *, step: int = 0, progress: float = 0.0, base: Tensor | None = None
    ) -> "Batch":
        """Make a batch of gathered columns query, positive and negative, and of those ids that `GATHERED` names."""
        sizes = torch.tensor(gathered.sizes["negative"], device=gathered.columns["query"].device)
        start = gathered.starts("query").repeat_interleave(sizes)
        optional: dict[str, Tensor] = {}
        for name, value in gathered.ids.items():
            if name in GATHERED:
                optional[GATHERED[name]] = _decode(name, value, gathered.columns["query"])
        return cls(
            **gathered.columns,
            **optional,
            negative_row=gathered.ids["negative.row"] + start,
            rows=gathered.local["query"],
            negative_rows=gathered.local["negative"],
            base=base,
            step=step,
            progress=progress,
        )

    @property
    def size(self) -> int:
        """Rows N of the global batch."""
        return len(self.query)

    @property
    def row_numbers(self) -> Tensor:
        """Numbers [n] of this rank's rows in the global batch."""
        return torch.arange(self.rows.start, self.rows.stop, device=self.query.device)

    @property
    def documents(self) -> Tensor:
        """All documents [N + M, D]: positives, then negatives."""
        return torch.cat([self.positive, self.negative]) if len(self.negative) else self.positive

    @property
    def document_row(self) -> Tensor:
        """The row [N + M] that each document belongs to."""
        return torch.cat([torch.arange(self.size, device=self.query.device), self.negative_row])

    def mean(self, values: Tensor, counted: Tensor | None = None) -> Tensor:
        """Share of the weighted mean over N rows, from values [n] of this rank; `counted` [N] leaves rows out."""
        weight: Tensor = self.query.new_ones(self.size) if self.weight is None else self.weight
        if counted is not None:
            weight = weight * counted
        total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        share: Tensor = (values * weight[self.rows]).sum() / total
        return share

    def rank_share(self, loss: Tensor) -> Tensor:
        """Share n / N of a loss that every rank has computed in full from the global batch."""
        return loss * (len(self.row_numbers) / self.size)


GATHERED = {  # names of gathered ids and the fields that they become
    "query.id": "query_id",
    "query.relevant": "relevant_id",
    "query.relevant_cluster": "relevant_cluster",
    "query.label": "label",
    "query.score": "score",
    "query.teacher": "teacher",
    "query.weight": "weight",
    "query.source": "source",
    "positive.id": "positive_id",
    "positive.cluster": "positive_cluster",
    "negative.id": "negative_id",
    "negative.cluster": "negative_cluster",
    "negative.score": "negative_score",
    "negative.teacher": "negative_teacher",
    "query.guide": "query_guide",
    "positive.guide": "positive_guide",
    "negative.guide": "negative_guide",
}
FLOATS = frozenset({"query.score", "query.teacher", "query.weight", "negative.score", "negative.teacher"})
FLOAT16 = frozenset({"query.guide", "positive.guide", "negative.guide"})


def _decode(name: str, bits: Tensor, like: Tensor) -> Tensor:
    """Values of a gathered column of int64: ids as they are, numbers from the bits of a float64, vectors of float16."""
    if name in FLOAT16:
        return bits.contiguous().view(torch.float16)
    if name not in FLOATS:
        return bits
    return bits.view(torch.float64).to(like.dtype if like.dtype == torch.float64 else torch.float32)


@dataclass(frozen=True)
class LossShare:
    """One rank's share of the loss on the global batch, and its shares of the figures that are reported with it."""

    loss: Tensor
    report: dict[str, Tensor] = field(default_factory=dict)


class Loss(Plugin):
    """A training loss: frozen settings, called with the global batch; built-in ones declare a `type` for recipes.

    A loss of your own derives from this, declares its settings as fields and goes by its import path:

        class Focal(Loss):
            gamma: float = 2.0

            def __call__(self, batch, scalars):
                cosine = F.cosine_similarity(batch.query[batch.rows], batch.positive[batch.rows], dim=1)
                return LossShare(batch.mean((1 - cosine) ** self.gamma))
    """

    def learnable(self) -> dict[str, float]:
        """Scalars that training adjusts together with the weights, by name, with their initial values."""
        return {}

    def parts(self) -> Sequence["Loss"]:
        """Losses that this one is made of; none where it is a loss by itself."""
        return ()

    def assumes_positives(self) -> bool:
        """Whether the loss, or a part of it, takes the positive of every row for right, whatever score the row has."""
        return any(part.assumes_positives() for part in self.parts()) if self.parts() else True

    def needs_base(self) -> bool:
        """Whether the loss compares with vectors of the untrained base, which costs a forward pass of a frozen copy."""
        return any(part.needs_base() for part in self.parts())

    def needs_teacher(self) -> bool:
        """Whether the loss compares with vectors that a teacher gave the texts, which come as those of a guide."""
        return any(part.needs_teacher() for part in self.parts())

    def needs_teacher_width(self) -> bool:
        """Whether the vectors of the teacher must be as wide as the model's."""
        return any(part.needs_teacher_width() for part in self.parts())

    def needs_sources(self) -> bool:
        """Whether every batch must hold rows of one source alone, which the loss asks for."""
        return any(part.needs_sources() for part in self.parts())

    def compares_by(self) -> str:
        """Name what the loss compares two vectors by; a loss that is made of others asks its parts."""
        return "cosine"

    def follow(self, similarity: str, *, unit_length: bool) -> Self:
        """Return the loss for a model that compares by `similarity`, which it takes where its settings leave that open.

        `unit_length` says that all vectors of the model have length 1.
        """
        return self

    @abstractmethod
    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Compute this rank's share of the loss; `scalars` are those of `learnable`, as they are at this step."""


def single_losses(loss: Loss) -> list[Loss]:
    """List the losses that a loss is made of in the end; itself where it has no parts."""
    return [single for part in loss.parts() for single in single_losses(part)] if loss.parts() else [loss]


def need(value: T | None, what: str, loss: str, fix: str) -> T:
    """Return a column of the batch, or raise UserError where the training rows do not have it."""
    if value is None:
        raise UserError(f"loss {loss}: the training rows have no {what}; {fix}")
    return value


def local_batch(query: Tensor, positive: Tensor, negative: Tensor | None = None, **columns: Any) -> Batch:
    """Make the batch of a single process from plain tensors: [N, D], [N, D] and [N, n, D] or None.

    `columns` are further fields of the batch; those of negatives are [N * n].
    """
    size, dim = query.shape
    negatives = query.new_zeros(size, 0, dim) if negative is None else negative
    owner = torch.arange(size, device=query.device).repeat_interleave(negatives.shape[1])
    return Batch(query, positive, negatives.reshape(-1, dim), owner, slice(0, size), slice(0, len(owner)), **columns)
