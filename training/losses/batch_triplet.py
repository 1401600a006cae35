"""Batch-hard, batch-semi-hard and batch-all triplets: positives share the label of the anchor, negatives do not.

With distances d, anchors a, positives p, negatives n and margin m:
    all        mean of max(0, d(a,p) - d(a,n) + m) over the triplets where it is above 0
    hard       mean over a of max(0, max_p d(a,p) - min_n d(a,n) + m)
    semi_hard  mean over (a,p) of max(0, d(a,p) - d(a,n*) + m); n* is the nearest negative that is further than p, or
               the furthest of all where none is
`soft` replaces max(0, x + m) with log(1 + exp(x)). Anchors without a positive or a negative do not count.
Sources: Hermans et al. 2017 (arXiv 1703.07737); semi-hard: Schroff et al. 2015 (FaceNet, arXiv 1503.03832).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from training.losses.distance import MarginLoss, pairwise_distance
from training.losses.false_negatives import MaskConfig, document_mask, query_mask
from training.losses.loss import Batch, LossShare, need

STRIP = 512  # rows compared with all points at once where only counts are needed


@dataclass(frozen=True)
class Terms:
    """Sums over the anchors of some rows: the loss, its denominator, candidate triplets, active triplets."""

    loss: Tensor
    count: Tensor
    candidates: Tensor
    active: Tensor


class BatchTriplet(MarginLoss):
    """Triplet margin loss over triplets formed inside the global batch; the anchors are divided among ranks by rows.

    `points` are all queries, or the queries and the positives of all rows; a row's two share its label. Without labels
    a row's label is its query. Known positives are no negatives, as `mask` says. Every rank counts the active triplets
    of all ranks, which `all` is a mean over, from the gathered points.
    """

    type: Literal["batch_triplet"] = "batch_triplet"
    mining: Literal["all", "hard", "semi_hard"] = Field("hard", description="which triplets count")
    soft: bool = Field(False, description="log(1 + exp(x)) in place of a margin")
    points: Literal["queries", "both"] = Field("both", description="queries alone, or with their positives")
    mask: MaskConfig = MaskConfig()

    @model_validator(mode="after")
    def _fits(self) -> "BatchTriplet":
        if self.soft and self.mining != "hard":
            raise ValueError("soft goes with mining hard")
        if {self.mask.margin, self.mask.teacher_margin, self.mask.guide_margin} != {None}:
            raise ValueError("triplets of a batch are masked by ids alone; leave the margins of mask out")
        return self

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over all anchors, pairs or active triplets of the global batch."""
        local = self._terms(batch, with_loss=True)
        count, candidates = local.count, local.candidates
        if batch.rows != slice(0, batch.size):
            with torch.no_grad():
                strips = [self._terms(strip, with_loss=self.mining == "all") for strip in _strips(batch)]
            count = torch.stack([terms.count for terms in strips]).sum()
            candidates = torch.stack([terms.candidates for terms in strips]).sum()
        report = {"active": local.active / candidates.clamp(min=1)}
        return LossShare(local.loss / count.clamp(min=1) + 0.0 * batch.query.sum(), report)

    def _terms(self, batch: Batch, with_loss: bool) -> Terms:
        """Sums over the anchors of `batch.rows`; without `with_loss` no distance is computed and only counts are."""
        same, other = self._relations(batch)
        pairs = (same & other.any(dim=1, keepdim=True)).sum(dim=1)
        usable = (pairs > 0).sum()
        candidates = {"hard": usable, "semi_hard": pairs.sum(), "all": (pairs * other.sum(dim=1)).sum()}[self.mining]
        if not with_loss:
            return Terms(batch.query.new_zeros(()), candidates, candidates, usable)
        both = self.points == "both"
        anchors = torch.cat([batch.query[batch.rows], batch.positive[batch.rows]]) if both else batch.query[batch.rows]
        points = torch.cat([batch.query, batch.positive]) if both else batch.query
        distances = pairwise_distance(anchors, points, self.distance)
        reduce = {"hard": self._hard, "semi_hard": self._semi_hard, "all": self._all}[self.mining]
        loss, active = reduce(distances, same, other, self.margin_at(batch.progress))
        return Terms(loss, active if self.mining == "all" else candidates, candidates, active)

    def _relations(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Booleans [A, P]: other points with the label of an anchor of `batch.rows`, and its negatives."""
        fix = "give them labels, or ids of queries"
        label = need(batch.query_id if batch.label is None else batch.label, "labels", self.type, fix)
        same = label[batch.rows][:, None] == label
        related = query_mask(batch, self.mask) | document_mask(batch, self.mask, columns=slice(0, batch.size))
        other = ~same & ~related
        itself = batch.row_numbers[:, None] == torch.arange(batch.size, device=label.device)
        if self.points == "both":
            zeros = torch.zeros_like(itself)
            itself = torch.cat([torch.cat([itself, zeros], dim=1), torch.cat([zeros, itself], dim=1)])
            same, other = same.repeat(2, 2), other.repeat(2, 2)
        return same & ~itself, other

    def _hard(self, distances: Tensor, same: Tensor, other: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        usable = same.any(dim=1) & other.any(dim=1)
        far = distances[usable].masked_fill(~same[usable], -torch.inf).max(dim=1).values
        near = distances[usable].masked_fill(~other[usable], torch.inf).min(dim=1).values
        loss = F.softplus(far - near) if self.soft else F.relu(far - near + margin)
        return loss.sum(), (far - near + margin > 0).sum()

    @staticmethod
    def _semi_hard(distances: Tensor, same: Tensor, other: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        count = other.sum(dim=1, keepdim=True)
        ordered = distances.masked_fill(~other, torch.inf).sort(dim=1).values
        further = torch.searchsorted(ordered.detach(), distances.detach().contiguous(), right=True)
        further = further.minimum(count - 1).clamp(min=0)  # the nearest that is further, else the furthest of all
        semi_hard = ordered.gather(1, further)
        pairs = same & (count > 0)
        loss = F.relu(distances[pairs] - semi_hard[pairs] + margin)
        return loss.sum(), (loss > 0).sum()

    @staticmethod
    def _all(distances: Tensor, same: Tensor, other: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """Sum over all triplets with memory [A, P], where listing every triplet would need [A, P, P].

        Of an anchor's negatives in order of distance the first k are within the margin of a pair of distance d: they
        add k * (d + m) - the sum of their distances.
        """
        ordered = distances.masked_fill(~other, torch.inf).sort(dim=1).values
        sums = F.pad(ordered.masked_fill(ordered.isinf(), 0.0).cumsum(dim=1), (1, 0))
        reach = distances + margin
        within = torch.searchsorted(ordered.detach(), reach.detach().contiguous()) * same
        loss = within * reach - sums.gather(1, within)
        return loss.sum(), within.sum()


def _strips(batch: Batch) -> Iterator[Batch]:
    """Yield the batch again and again, each time with a strip of its rows as this rank's."""
    for start in range(0, batch.size, STRIP):
        yield replace(batch, rows=slice(start, min(start + STRIP, batch.size)))
