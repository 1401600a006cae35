"""Ranking losses on graded similarity: of two pairs the one with the higher score shall be the more similar.

With similarity s_i and score y_i of pair i, and scale c = 1 / temperature:
    loss = log(1 + sum over (i, j) with y_i < y_j of exp(c * (s_i - s_j)))
CoSENT takes the cosine (Su 2022, kexue.fm/archives/8847), AnglE the angle in the complex plane, whose gradient does
not vanish where the cosine saturates (Li and Li 2023, arXiv 2309.12871).
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from training.losses.loss import Batch, Loss, LossShare, need


class _RankingLoss(Loss):
    """Log-sum-exp over all pairs of pairs: every rank computes it in full, in O(N log N), and takes its share.

    Weights of rows are not used.
    """

    temperature: float = Field(0.05, gt=0, description="divides similarities; smaller counts the worst pairs alone")

    @abstractmethod
    def similarity(self, query: Tensor, positive: Tensor) -> Tensor:
        """Similarities [N] of rows [N, D] with rows [N, D]."""

    def assumes_positives(self) -> bool:
        """Return False: the score of a pair says whether it is right."""
        return False

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the loss over all pairs (query, positive) of the global batch."""
        score = need(batch.score, "scores", self.type, "train on rows: [labelled]")
        similarity = self.similarity(batch.query, batch.positive)
        return LossShare(batch.rank_share(ranking_loss(similarity / self.temperature, score)))


class CoSENT(_RankingLoss):
    """CoSENT: pairs are ranked by cosine."""

    type: Literal["cosent"] = "cosent"

    def similarity(self, query: Tensor, positive: Tensor) -> Tensor:
        """Cosines [N]."""
        return F.cosine_similarity(query, positive, dim=1)


class AnglE(_RankingLoss):
    """AnglE: pairs are ranked by angle in the complex plane; halves of a vector are its real and imaginary parts."""

    type: Literal["angle"] = "angle"

    def similarity(self, query: Tensor, positive: Tensor) -> Tensor:
        """Sums [N] of the parts of the quotient of the two complex vectors at length 1, as absolute values."""
        query, positive = (F.normalize(F.pad(x, (0, x.shape[1] % 2)), dim=1) for x in (query, positive))
        real, imaginary = query.chunk(2, dim=1)
        other_real, other_imaginary = positive.chunk(2, dim=1)
        turned = (imaginary * other_real - real * other_imaginary).sum(dim=1)
        return ((query * positive).sum(dim=1) + turned).abs()


def ranking_loss(similarity: Tensor, score: Tensor) -> Tensor:
    """Return log(1 + sum of exp(s_i - s_j) over pairs with score_i < score_j) for [N] similarities and scores."""
    score, order = score.sort()
    similarity = similarity[order]
    above = torch.logcumsumexp(-similarity.flip(0), dim=0).flip(0)  # log of the sum of exp(-s_j) from here on
    first_higher = torch.searchsorted(score, score, right=True)
    has = first_higher < len(score)
    terms = similarity[has] + above[first_higher[has]]
    return torch.cat([similarity.new_zeros(1), terms]).logsumexp(dim=0) + 0.0 * similarity.sum()
