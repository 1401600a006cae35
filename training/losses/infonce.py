"""InfoNCE over the global batch, also called multiple-negatives ranking.

For row i with query q_i, its document d_i, all documents D = (positives, negatives) of all ranks and temperature t:
    loss_i = -log( exp(cos(q_i, d_i) / t) / sum_{d in D} exp(cos(q_i, d) / t) )
Further directions join the sum (`joint`: one softmax over all of them; Li et al. 2023, GTE, arXiv 2308.03281) or are
losses of their own whose mean counts (`per_direction`: Radford et al. 2021, CLIP, arXiv 2103.00020):
    document_to_query     cos(d_i, q) for all queries
    query_to_query        cos(q_i, q) for all queries but q_i
    document_to_document  cos(d_i, d) for all documents but those of row i
Hardness adds the constant a * cos(q_i, d) to the logits of negatives (Lan et al. 2025, LLaVE, arXiv 2503.04812: of the
batch, a = 9; Schechter Vera et al. 2025, EmbeddingGemma, arXiv 2509.20354: of the row's own, a = 5).
With several positives P_i known (by ids, or given with a score above 0), one can rank the others as nothing (they are
masked), or as right: `summed` -log(sum_P exp / sum_D exp) (Miech et al. 2020, MIL-NCE, arXiv 1912.06430), `mean` the
mean over P of -log(exp / sum_D exp) (Khosla et al. 2020, SupCon, arXiv 2004.11362).
Sources: van den Oord et al. 2018 (arXiv 1807.03748); Henderson et al. 2017 (arXiv 1705.00652).
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from training.losses.false_negatives import Limit, MaskConfig, document_mask, query_mask
from training.losses.objective import Batch, Objective, Share
from training.losses.tiled_softmax import OfTile, Scores, scores

Direction = Literal["query_to_document", "document_to_query", "query_to_query", "document_to_document"]


class InfoNCE(Objective):
    """Cross-entropy of the right document among all documents of the global batch."""

    type: Literal["infonce"] = "infonce"
    temperature: float = Field(0.05, gt=0, description="divides cosines; smaller is sharper")
    learn_temperature: bool = Field(False, description="let training adjust the temperature, as CLIP does")
    directions: list[Direction] = Field(["query_to_document"], description="what is ranked for what")
    partition: Literal["joint", "per_direction"] = Field("joint", description="one softmax, or one a direction")
    hardness: Literal["in_batch", "hard", "all"] | None = Field(None, description="negatives that weigh by similarity")
    hardness_strength: float = Field(5.0, ge=0, description="of `hardness`; 0 is none")
    positives: Literal["one", "summed", "mean"] = Field("one", description="what other known positives of a row are")
    tile: int | None = Field(None, ge=1, description="compute logits in tiles of this side, for batches of thousands")
    mask: MaskConfig = MaskConfig()

    @model_validator(mode="after")
    def _fits(self) -> "InfoNCE":
        if "query_to_document" not in self.directions or len(set(self.directions)) < len(self.directions):
            raise ValueError("directions must hold query_to_document, and each once")
        if self.partition == "per_direction":
            if {"query_to_query", "document_to_document"} & set(self.directions):
                raise ValueError("per_direction needs the right pair in each direction; use partition joint")
            if self.positives != "one":
                raise ValueError("several positives need partition joint")
        return self

    def learned(self) -> dict[str, float]:
        """Return the log of the inverse temperature when it is learned."""
        return {"log_scale": -math.log(self.temperature)} if self.learn_temperature else {}

    def __call__(self, batch: Batch, learned: Mapping[str, Tensor]) -> Share:
        """Share of the mean over the N rows of the global batch, by weight."""
        scale = learned["log_scale"].exp() if self.learn_temperature else 1.0 / self.temperature
        limit = Limit(batch, self.mask)
        found = {direction: self._ranked(direction, batch, scale, limit) for direction in self.directions}
        sums = torch.stack([one.log_sum for one in found.values()])
        log_sum = sums.mean(dim=0) if self.partition == "per_direction" else sums.logsumexp(dim=0)
        first = found["query_to_document"]
        right = scale * first.right if self.positives == "one" else self._several(batch, scale)
        return Share(batch.mean(log_sum - right), _report(first, batch))

    def _ranked(self, direction: Direction, batch: Batch, scale: Tensor | float, limit: Limit) -> Scores:
        """Log-sum-exp over one direction, without what is masked and what belongs to the row itself."""
        documents = direction.endswith("document")
        from_query = direction.startswith("query")
        crossed = from_query == documents  # queries with documents: the row's own place holds the right pair

        def masked(rows: slice, columns: slice, cosine: Tensor) -> Tensor:
            by_id = (document_mask if documents else query_mask)(batch, self.mask, rows, columns)
            if self.positives != "one" and direction == "query_to_document":
                return limit(rows, columns, cosine, documents=True) & ~by_id
            if limit.sets:
                by_id |= limit(rows, columns, cosine, documents=documents, of_query=from_query)
            return by_id if crossed else by_id | _of_row(batch, rows, columns, documents)

        hardens = direction == "query_to_document" and self.hardness is not None and self.hardness_strength > 0
        return scores(
            (batch.query if from_query else batch.positive)[batch.rows],
            batch.documents if documents else batch.query,
            scale,
            batch.own if crossed else torch.full_like(batch.own, -1),
            tile=self.tile,
            masked=masked,
            added=self._harder(batch) if hardens else None,
        )

    def _harder(self, batch: Batch) -> OfTile:
        def added(rows: slice, columns: slice, cosine: Tensor) -> Tensor:
            own_documents = _of_row(batch, rows, columns, documents=True)
            given = torch.arange(columns.start, columns.stop, device=cosine.device) >= batch.size
            chosen = {"hard": own_documents & given, "in_batch": ~own_documents, "all": ~own_documents | given}
            return self.hardness_strength * cosine * chosen[self.hardness or "all"]

        return added

    def _several(self, batch: Batch, scale: Tensor | float) -> Tensor:
        """What all known positives of this rank's rows say together, [n] in logits."""
        row, column = self._positives(batch)
        logits = scale * F.cosine_similarity(batch.query[batch.rows][row], batch.documents[column], dim=1)
        empty = logits.new_zeros(len(batch.own))
        if self.positives == "mean":
            return empty.index_add(0, row, logits) / empty.index_add(0, row, torch.ones_like(logits))
        top = empty.scatter_reduce(0, row, logits.detach(), "amax", include_self=False)
        return empty.index_add(0, row, (logits - top[row]).exp()).log() + top

    def _positives(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows (of this rank) and columns (of the documents) of all known positives, a strip of rows at a time."""
        count = len(batch.own)
        places = torch.stack([torch.arange(count, device=batch.query.device), batch.own])
        strips = [
            slice(at, min(at + (self.tile or count), count)) for at in range(0, count, self.tile or max(1, count))
        ]
        offsets = torch.tensor([[strip.start, 0] for strip in strips], device=batch.query.device)
        others = [document_mask(batch, self.mask, strip).nonzero() for strip in strips]
        found = torch.cat([places.T, *(one + start for one, start in zip(others, offsets, strict=True))])
        return found[:, 0], found[:, 1]


def _of_row(batch: Batch, rows: slice, columns: slice, documents: bool) -> Tensor:
    """Places [r, c] of a tile where a document or query belongs to the row itself."""
    owner = batch.document_row[columns] if documents else torch.arange(batch.size, device=batch.query.device)[columns]
    return batch.own[rows][:, None] == owner


@torch.no_grad()
def _report(found: Scores, batch: Batch) -> dict[str, Tensor]:
    """Shares of what a reader wants to see: masked places, similarity of positives and of the hardest negatives."""
    hardest = found.hardest.clamp(min=-1.0)
    return {
        "masked": found.masked.sum() / ((batch.size + len(batch.negative)) * batch.size),
        "positive_similarity": found.right.sum() / batch.size,
        "hardest_similarity": hardest.sum() / batch.size,
        "accuracy": (found.right > hardest).float().sum() / batch.size,
    }
