"""The training step of a reranker: pairs of a query and a document in place of texts, scores in place of vectors.

A score is a vector of one dimension, and a query is [1], so that their inner product is the score. All else is the step
of an encoder: batches, gradient cache, gather, shares of a loss over ranks, optimiser, checkpoints.
"""

from dataclasses import replace
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.encoder.encoder import Encoder
from pipeline.encoder.pair_classifier import PairClassifier
from pipeline.encoder.tokenizer import Tokens
from training.data import batching
from training.data.batch_negatives import fill_negatives
from training.data.epoch_reader import EpochFeed, StepRef
from training.data.rows import Rows
from training.loop.step import LoopConfig, RankBatch, TrainStep
from training.losses.loss import Batch, Loss


def as_encoder(model: PairClassifier) -> Encoder:
    """The model as the training loop knows it, which calls of an encoder what a reranker has too."""
    return cast(Encoder, model)


class RerankerStep(TrainStep):
    """A step over the pairs of each row: its query with its positive, then with each of its negatives.

    Rows with fewer than `batch_negatives` negatives get documents of other rows of their batch.
    """

    def __init__(
        self,
        model: PairClassifier,
        loss: Loss,
        data: Rows | EpochFeed,
        config: LoopConfig,
        device: str | None = None,
        batch_negatives: int = 0,
    ) -> None:
        self.pairs, self.batch_negatives = model.template, batch_negatives
        super().__init__(as_encoder(model), loss, data, config, device)
        self.feed.complete = self._fill if batch_negatives else None

    def _fill(self, batch: pa.Table, ref: StepRef) -> pa.Table:
        return fill_negatives(batch, self.batch_negatives, f"{self.config.seed}/{ref.epoch}/{ref.file}/{ref.index}")

    def inputs(self, columns: dict[str, Tokens], row_of_negative: batching.Ints) -> tuple[Tokens, list[int]]:
        """Token ids of the R pairs, and where the document of each begins."""
        queries, documents = columns["query"], [*columns["positive"], *columns["negative"]]
        return self.pairs.join_all([*queries, *(queries[row] for row in row_of_negative)], documents)

    def vectors_of(self, batch: RankBatch, vectors: Tensor) -> dict[str, Tensor]:
        """Scores [R, 1] as columns, and for each query [1]."""
        positive, negative = torch.split(vectors, [len(batch.columns[name]) for name in ("positive", "negative")])
        return {"query": torch.ones_like(positive), "positive": positive, "negative": negative}

    def row_of_inputs(self, batch: RankBatch) -> batching.Ints:
        """The row [R] that each pair belongs to."""
        return np.concatenate([np.arange(len(batch.rows)), batch.ids["negative.row"].cpu().numpy()])

    def embed(self, batch: RankBatch, step: int) -> Batch:
        """Score this rank's pairs and gather those of all ranks; a positive without a grade has grade 1."""
        scored = super().embed(batch, step)
        grade = scored.positive.new_ones(scored.size) if scored.score is None else scored.score.nan_to_num(1.0)
        return replace(scored, score=grade)
