"""Settings of the training of a reranker."""

from collections.abc import Mapping

from pydantic import Field, field_validator, model_validator

from pipeline.encoder.pair_classifier import PairClassifierConfig
from pipeline.storage import files
from pipeline.storage.artifact import Artifact
from training.data.read_rows import Kind
from training.losses.distance import DOT_TEMPERATURE
from training.losses.listwise import Listwise
from training.losses.loss import Loss
from training.losses.registry import RerankerLoss
from training.run.config import TrainingConfig


class RerankerConfig(TrainingConfig):
    """Train a reranker, which reads a query and a document at once, on the rows that train an encoder."""

    job = "train_reranker"
    common_settings = (
        "run",
        "cross_encoder.model",
        "cross_encoder.max_length",
        "rows",
        "loss",
        "batch_negatives",
        "loop.epochs",
        "loop.batch_size",
        "loop.learning_rate",
        "workers",
    )

    out: str | None = Field(None, description="directory of the reranker; default {run}/reranker")
    cross_encoder: PairClassifierConfig = PairClassifierConfig()
    loss: RerankerLoss = Listwise(similarity="dot", temperature=DOT_TEMPERATURE)
    batch_negatives: int = Field(
        4,
        ge=0,
        description="rows with fewer negatives get documents of other rows of their batch, up to so many; none that is "
        "known to be right",
    )
    validation_depth: int = Field(
        20, ge=2, description="validation ranks so many documents a query that BM25 finds, and the relevant ones"
    )

    @field_validator("loss")
    @classmethod
    def _of_scores(cls, loss: Loss) -> Loss:
        """Losses compare scores as they are, with a temperature of 1 where the recipe sets none."""
        return loss.follow("dot", unit_length=False)

    @model_validator(mode="after")
    def _fits(self) -> "RerankerConfig":
        if self.loss.compares_by() != "dot":
            raise ValueError("a score has no cosine; leave similarity out of the loss of a reranker")
        if getattr(self.loss, "in_batch", False):
            raise ValueError("loss.in_batch takes vectors; batch_negatives says how many other documents a row reads")
        for setting, value in (("parallel", "ddp"), ("compile", False)):
            if getattr(self.loop, setting) != value:
                raise ValueError(f"loop.{setting}: a reranker trains with {str(value).lower()} alone")
        if self.validation.asynchronous:
            raise ValueError("validation.asynchronous: a reranker is validated in turn")
        return self

    def prefers_scored_pairs(self, available: Mapping[Kind, int]) -> bool:
        """Take labelled pairs where there are no others: documents to rank teach more than scores of sentences."""
        return not any(available.get(kind) for kind in ("mined", "pairs", "triplets"))

    def validation_rows(self, data: Artifact) -> int:
        """Number of rows whose forward pass costs about as much as a validation: pairs, of which a row has some."""
        return self.validation.max_queries * self.validation_depth // (1 + self.batch_negatives)

    @property
    def paths(self) -> dict[str, str]:
        """Absolute paths of data, negatives, rows, epochs, log and model."""
        home = files.absolute(self.run)
        log = files.join(home, "reranker-training")
        return {
            "data": files.absolute(self.data) if self.data else files.join(home, "data"),
            "negatives": files.absolute(self.negatives) if self.negatives else files.join(home, "negatives"),
            "model": files.absolute(self.out) if self.out else files.join(home, "reranker"),
            "rows": files.join(home, "reranker-rows"),
            "log": log,
            "epochs": files.join(log, "epochs"),
        }
