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

from training.losses.distance import SimilarityLoss, paired_similarity
from training.losses.false_negatives import MaskConfig, ScoreFilter, document_mask, query_mask
from training.losses.loss import Batch, LossShare
from training.losses.tiled_softmax import RowScores, TileFunction, row_scores

Direction = Literal["query_to_document", "document_to_query", "query_to_query", "document_to_document"]


class InfoNCE(SimilarityLoss):
    """InfoNCE (multiple negatives ranking): cross-entropy of the right document among all documents of the batch."""

    type: Literal["infonce"] = "infonce"
    temperature: float = Field(
        0.05, gt=0, description="divides similarities; smaller is sharper; 1 where a model compares by inner products"
    )
    learn_temperature: bool = Field(False, description="let training adjust the temperature, as CLIP does")
    directions: list[Direction] = Field(["query_to_document"], description="which texts are ranked for which")
    partition: Literal["joint", "per_direction"] = Field("joint", description="one softmax, or one a direction")
    hardness: Literal["in_batch", "hard", "all"] | None = Field(None, description="negatives that count more")
    hardness_strength: float = Field(5.0, ge=0, description="of `hardness`; 0 is none")
    positives: Literal["one", "summed", "mean"] = Field(
        "one", description="other known positives: masked, or right too"
    )
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

    def learnable(self) -> dict[str, float]:
        """Return the log of the inverse temperature when it is learned."""
        return {"log_scale": -math.log(self.temperature)} if self.learn_temperature else {}

    def __call__(self, batch: Batch, scalars: Mapping[str, Tensor]) -> LossShare:
        """Share of the mean over the N rows of the global batch, by weight."""
        scale = scalars["log_scale"].exp() if self.learn_temperature else 1.0 / self.temperature
        score_filter = ScoreFilter(batch, self.mask, self.similarity)
        ranked = {direction: self._ranked(direction, batch, scale, score_filter) for direction in self.directions}
        sums = torch.stack([scores.log_sum for scores in ranked.values()])
        log_sum = sums.mean(dim=0) if self.partition == "per_direction" else sums.logsumexp(dim=0)
        first = ranked["query_to_document"]
        right = scale * first.right if self.positives == "one" else self._several(batch, scale)
        return LossShare(batch.mean(log_sum - right), _report(first, batch))

    def _ranked(
        self, direction: Direction, batch: Batch, scale: Tensor | float, score_filter: ScoreFilter
    ) -> RowScores:
        """Row scores of one direction, without masked entries and those that belong to the row itself."""
        documents = direction.endswith("document")
        from_query = direction.startswith("query")
        crossed = from_query == documents  # queries with documents: column i of row i holds the right pair

        def mask(rows: slice, columns: slice, cosine: Tensor) -> Tensor:
            by_id = (document_mask if documents else query_mask)(batch, self.mask, rows, columns)
            if self.positives != "one" and direction == "query_to_document":
                return score_filter(rows, columns, cosine, documents=True) & ~by_id
            if score_filter.active:
                by_id |= score_filter(rows, columns, cosine, documents=documents, of_query=from_query)
            return by_id if crossed else by_id | _of_row(batch, rows, columns, documents)

        hardens = direction == "query_to_document" and self.hardness is not None and self.hardness_strength > 0
        return row_scores(
            (batch.query if from_query else batch.positive)[batch.rows],
            batch.documents if documents else batch.query,
            scale,
            batch.row_numbers if crossed else torch.full_like(batch.row_numbers, -1),
            tile=self.tile,
            masked=mask,
            added=self._harder(batch) if hardens else None,
            similarity=self.similarity,
        )

    def _harder(self, batch: Batch) -> TileFunction:
        """Constants to add to the logits of hard negatives."""

        def added(rows: slice, columns: slice, cosine: Tensor) -> Tensor:
            of_row = _of_row(batch, rows, columns, documents=True)
            negative = torch.arange(columns.start, columns.stop, device=cosine.device) >= batch.size
            hardened = {"hard": of_row & negative, "in_batch": ~of_row, "all": ~of_row | negative}
            return self.hardness_strength * cosine * hardened[self.hardness or "all"]

        return added

    def _several(self, batch: Batch, scale: Tensor | float) -> Tensor:
        """Logits [n] of all known positives of this rank's rows together, summed or as their mean."""
        row, column = self._positives(batch)
        logits = scale * paired_similarity(batch.query[batch.rows][row], batch.documents[column], self.similarity)
        empty = logits.new_zeros(len(batch.row_numbers))
        if self.positives == "mean":
            return empty.index_add(0, row, logits) / empty.index_add(0, row, torch.ones_like(logits))
        top = empty.scatter_reduce(0, row, logits.detach(), "amax", include_self=False)
        return empty.index_add(0, row, (logits - top[row]).exp()).log() + top

    def _positives(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows (of this rank) and columns (of the documents) of all known positives, found by strips of rows."""
        count = len(batch.row_numbers)
        first = torch.stack([torch.arange(count, device=batch.query.device), batch.row_numbers])
        strips = [
            slice(start, min(start + (self.tile or count), count))
            for start in range(0, count, self.tile or max(1, count))
        ]
        offsets = torch.tensor([[strip.start, 0] for strip in strips], device=batch.query.device)
        others = [document_mask(batch, self.mask, strip).nonzero() for strip in strips]
        pairs = torch.cat([first.T, *(part + offset for part, offset in zip(others, offsets, strict=True))])
        return pairs[:, 0], pairs[:, 1]


def _of_row(batch: Batch, rows: slice, columns: slice, documents: bool) -> Tensor:
    """Boolean [r, c]: entries of a tile whose document or query belongs to the row itself."""
    owner = batch.document_row[columns] if documents else torch.arange(batch.size, device=batch.query.device)[columns]
    return batch.row_numbers[rows][:, None] == owner


@torch.no_grad()
def _report(scores: RowScores, batch: Batch) -> dict[str, Tensor]:
    """Shares of figures to report: masked entries, similarity of positives and of hardest negatives, accuracy."""
    hardest = scores.hardest.masked_fill(scores.hardest.isneginf(), -1.0)
    return {
        "masked": scores.masked.sum() / ((batch.size + len(batch.negative)) * batch.size),
        "positive_similarity": scores.right.sum() / batch.size,
        "hardest_similarity": hardest.sum() / batch.size,
        "accuracy": (scores.right > hardest).float().sum() / batch.size,
    }
