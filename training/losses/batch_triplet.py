"""Triplets mined inside the global batch from labels: a point's positives share its label, all others are negatives.

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

from training.losses.distance import Margin, between
from training.losses.false_negatives import MaskConfig, document_mask, query_mask
from training.losses.objective import Batch, Share, need

STRIP = 512  # rows whose relations to all points are held at once where only counts are wanted


@dataclass(frozen=True)
class Terms:
    """Sums over the anchors of some rows: of the loss, of what it is a mean over, of triplets looked at and active."""

    loss: Tensor
    count: Tensor
    looked_at: Tensor
    active: Tensor


class MinedTriplet(Margin):
    """Margin between positives and negatives that the batch itself holds; the anchors are shared out by rows.

    `points` are all queries, or the queries and the positives of all rows; a row's two share its label. Without labels
    a row's label is its query. Known positives are no negatives, as `mask` says. Which triplets are active, which
    `all` is a mean over, every rank finds from the gathered points.
    """

    type: Literal["mined_triplet"] = "mined_triplet"
    mining: Literal["all", "hard", "semi_hard"] = Field("hard", description="which triplets count")
    soft: bool = Field(False, description="log(1 + exp(x)) in place of a margin")
    points: Literal["queries", "both"] = Field("both", description="queries alone, or with their positives")
    mask: MaskConfig = MaskConfig()

    @model_validator(mode="after")
    def _fits(self) -> "MinedTriplet":
        if self.soft and self.mining != "hard":
            raise ValueError("soft goes with mining hard")
        if {self.mask.margin, self.mask.teacher_margin, self.mask.guide_margin} != {None}:
            raise ValueError("mined triplets are masked by ids alone; leave the margins of mask out")
        return self

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over all anchors, pairs or active triplets of the global batch."""
        mine = self._terms(batch, wanted=True)
        count, looked_at = mine.count, mine.looked_at
        if batch.rows != slice(0, batch.size):
            with torch.no_grad():
                everyone = [self._terms(strip, wanted=self.mining == "all") for strip in _strips(batch)]
            count = torch.stack([one.count for one in everyone]).sum()
            looked_at = torch.stack([one.looked_at for one in everyone]).sum()
        report = {"active": mine.active / looked_at.clamp(min=1)}
        return Share(mine.loss / count.clamp(min=1) + 0.0 * batch.query.sum(), report)

    def _terms(self, batch: Batch, wanted: bool) -> Terms:
        """Sums over the anchors of the batch's own rows; without `wanted` the distances, and the loss, stay unknown."""
        same, other = self._relations(batch)
        pairs = (same & other.any(dim=1, keepdim=True)).sum(dim=1)
        usable = (pairs > 0).sum()
        looked_at = {"hard": usable, "semi_hard": pairs.sum(), "all": (pairs * other.sum(dim=1)).sum()}[self.mining]
        if not wanted:
            return Terms(batch.query.new_zeros(()), looked_at, looked_at, usable)
        both = self.points == "both"
        own = torch.cat([batch.query[batch.rows], batch.positive[batch.rows]]) if both else batch.query[batch.rows]
        distances = between(own, torch.cat([batch.query, batch.positive]) if both else batch.query, self.distance)
        find = {"hard": self._hard, "semi_hard": self._semi_hard, "all": self._all}[self.mining]
        loss, active = find(distances, same, other, self.margin_at(batch.progress))
        return Terms(loss, active if self.mining == "all" else looked_at, looked_at, active)

    def _relations(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which points [P] share the label of the own anchors [A], themselves aside, and which are their negatives."""
        fix = "give them labels, or ids of queries"
        label = need(batch.query_id if batch.label is None else batch.label, "labels", self.type, fix)
        same = label[batch.rows][:, None] == label
        related = query_mask(batch, self.mask) | document_mask(batch, self.mask, columns=slice(0, batch.size))
        other = ~same & ~related
        itself = batch.own[:, None] == torch.arange(batch.size, device=label.device)
        if self.points == "both":
            nothing = torch.zeros_like(itself)
            itself = torch.cat([torch.cat([itself, nothing], dim=1), torch.cat([nothing, itself], dim=1)])
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
        falling = distances.masked_fill(~other, torch.inf).sort(dim=1).values
        further = torch.searchsorted(falling.detach(), distances.detach().contiguous(), right=True)
        further = further.minimum(count - 1).clamp(min=0)  # the nearest that is further, else the furthest of all
        chosen = falling.gather(1, further)
        pairs = same & (count > 0)
        loss = F.relu(distances[pairs] - chosen[pairs] + margin)
        return loss.sum(), (loss > 0).sum()

    @staticmethod
    def _all(distances: Tensor, same: Tensor, other: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """With an anchor's negatives in order, those within reach of a pair are the first k: k * (d + m) - their sum.

        That needs [A, P] where every triplet by itself would need [A, P, P].
        """
        ordered = distances.masked_fill(~other, torch.inf).sort(dim=1).values
        sums = F.pad(ordered.masked_fill(ordered.isinf(), 0.0).cumsum(dim=1), (1, 0))
        reach = distances + margin
        within = torch.searchsorted(ordered.detach(), reach.detach().contiguous()) * same
        loss = within * reach - sums.gather(1, within)
        return loss.sum(), within.sum()


def _strips(batch: Batch) -> Iterator[Batch]:
    """The batch as if a strip of its rows at a time were this rank's."""
    for start in range(0, batch.size, STRIP):
        yield replace(batch, rows=slice(start, min(start + STRIP, batch.size)))
