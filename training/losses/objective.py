"""What every objective sees and returns.

A loss is defined on the global batch. Each rank returns its share; shares sum to the loss on the global batch, which
is what makes the gradient independent of the number of ranks (training/gather.py). A loss that is a sum over rows
shares by rows. One that is not (a log-sum-exp over all pairs) is computed whole by every rank from the gathered
vectors, and each returns the part of it that it has of the rows.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from pipeline.core.config import Plugin
from pipeline.core.errors import UserError
from training.losses.gather import Gathered

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """The embedded global batch as one rank sees it: rows of all ranks, and which are its own.

    `query` [N, D] and `positive` [N, D] are aligned by row; `negative` [M, D], in order of rows, belongs to the row
    that `negative_row` [M] names. What is not known of any row is None.
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
    known: Tensor | None = None  # [N, K] documents known to be relevant to the row's query, padded with -1
    positive_cluster: Tensor | None = None  # [N] near-duplicate cluster of the document, -1 for none
    negative_cluster: Tensor | None = None  # [M]
    known_cluster: Tensor | None = None  # [N, K] clusters of the known documents
    label: Tensor | None = None  # [N] class of the row, for triplets mined in the batch
    score: Tensor | None = None  # [N] similarity or judged relevance of query and positive
    negative_score: Tensor | None = None  # [M] the same of the other documents; they are positives above 0
    teacher: Tensor | None = None  # [N] a teacher's score of query and positive, NaN where it gave none
    negative_teacher: Tensor | None = None  # [M]
    query_guide: Tensor | None = None  # [N, G] vectors of another model, NaN for none; no gradient
    positive_guide: Tensor | None = None  # [N, G]
    negative_guide: Tensor | None = None  # [M, G]
    weight: Tensor | None = None  # [N] what the row counts in a mean over rows
    base: Tensor | None = None  # [n + n + m, D] what the base makes of this rank's own queries, positives, negatives
    step: int = 0
    progress: float = 0.0  # share of the training that is done, 0 to 1

    @classmethod
    def of(cls, every: Gathered, *, step: int = 0, progress: float = 0.0, base: Tensor | None = None) -> "Batch":
        """Make a batch of what was gathered: columns query, positive, negative, and whatever of `GATHERED` is there."""
        sizes = torch.tensor(every.sizes["negative"], device=every.columns["query"].device)
        start = every.starts("query").repeat_interleave(sizes)
        known: dict[str, Tensor] = {}
        for name, value in every.ids.items():
            if name in GATHERED:
                known[GATHERED[name]] = _numbers(name, value, every.columns["query"])
        return cls(
            **every.columns,
            **known,
            negative_row=every.ids["negative.row"] + start,
            rows=every.own["query"],
            negative_rows=every.own["negative"],
            base=base,
            step=step,
            progress=progress,
        )

    @property
    def size(self) -> int:
        """Rows N of the global batch."""
        return len(self.query)

    @property
    def own(self) -> Tensor:
        """Global row numbers of this rank's rows [n]."""
        return torch.arange(self.rows.start, self.rows.stop, device=self.query.device)

    @property
    def documents(self) -> Tensor:
        """Every document [N + M, D]: positives, then negatives."""
        return torch.cat([self.positive, self.negative]) if len(self.negative) else self.positive

    @property
    def document_row(self) -> Tensor:
        """The row that every document belongs to [N + M]."""
        return torch.cat([torch.arange(self.size, device=self.query.device), self.negative_row])

    def mean(self, values: Tensor, counted: Tensor | None = None) -> Tensor:
        """Share of the mean over rows, by weight, of values [n] of this rank's rows; `counted` [N] leaves rows out."""
        weight: Tensor = self.query.new_ones(self.size) if self.weight is None else self.weight
        if counted is not None:
            weight = weight * counted
        total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        share: Tensor = (values * weight[self.rows]).sum() / total
        return share

    def whole(self, loss: Tensor) -> Tensor:
        """Share of a loss that every rank has computed from the whole batch: as much as it has of the rows."""
        return loss * (len(self.own) / self.size)


GATHERED = {
    "query.id": "query_id",
    "query.known": "known",
    "query.cluster": "known_cluster",
    "query.label": "label",
    "query.score": "score",
    "query.teacher": "teacher",
    "query.weight": "weight",
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

HALVES = frozenset({"query.guide", "positive.guide", "negative.guide"})


def _numbers(name: str, bits: Tensor, like: Tensor) -> Tensor:
    """What travelled among the ids: ids as they are, numbers from the bits of their float64, vectors of float16."""
    if name in HALVES:
        return bits.contiguous().view(torch.float16)
    if name not in FLOATS:
        return bits
    return bits.view(torch.float64).to(like.dtype if like.dtype == torch.float64 else torch.float32)


@dataclass(frozen=True)
class Share:
    """One rank's share of the loss on the global batch, and shares of what is reported beside it."""

    loss: Tensor
    report: dict[str, Tensor] = field(default_factory=dict)


class Objective(Plugin):
    """A training objective; subclasses are frozen settings with `type` as their name in recipes."""

    def learned(self) -> dict[str, float]:
        """Scalars that training adjusts, by name, with their initial values."""
        return {}

    def trusts(self) -> bool:
        """Whether a row's positive counts as right whatever its score says."""
        return True

    def needs_base(self) -> bool:
        """Whether it looks at what the base makes of the texts, which costs a forward pass of the frozen base."""
        return False

    @abstractmethod
    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Compute this rank's share of the loss."""


def need(value: T | None, what: str, loss: str, fix: str) -> T:
    """Return a part of the batch, or raise UserError where the data has none."""
    if value is None:
        raise UserError(f"loss {loss}: the training rows have no {what}; {fix}")
    return value


def local(query: Tensor, positive: Tensor, negative: Tensor | None = None, **known: Any) -> Batch:
    """Make a one-process batch of plain tensors: [N, D], [N, D] and [N, n, D] or none.

    `known` are further fields of the batch; those of negatives are [N * n].
    """
    size, dim = query.shape
    given = query.new_zeros(size, 0, dim) if negative is None else negative
    owner = torch.arange(size, device=query.device).repeat_interleave(given.shape[1])
    return Batch(query, positive, given.reshape(-1, dim), owner, slice(0, size), slice(0, len(owner)), **known)
