"""Settings of the training of an encoder, and those that every training has."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.core.config import Config, JobConfig
from pipeline.core.errors import UserError
from pipeline.encoder.attention import PACKED
from pipeline.encoder.encoder import EncoderConfig
from pipeline.storage import files
from pipeline.storage.artifact import Artifact
from training.data.guide_vectors import GuideConfig
from training.data.passage_choice import TrainPassages
from training.data.read_rows import Kind
from training.data.replay import Replay
from training.loop.checkpoint import CheckpointConfig
from training.loop.lora import LoraConfig
from training.loop.step import LoopConfig
from training.loop.validation import ValidationConfig
from training.losses.any_loss import AnyLoss
from training.losses.infonce import InfoNCE
from training.losses.loss import Loss
from training.run.model_card import CardConfig
from training.run.trackers import AnyTracker


class Refresh(Config):
    """When negatives are mined again by the current model (ANCE); those of an epoch are at most `every` epochs old.

    Version 0 is what the run began with; version n is mined by the weights after n * `every` epochs, with the settings
    of version 0. Source: Xiong et al. 2020 (ANCE, arXiv 2007.00808), whose negatives lag by an unknown number of steps.
    """

    every: int = Field(1, ge=1, description="epochs from one mining to the next")

    def version(self, epoch: int) -> int:
        """Version of the negatives that an epoch trains on."""
        return epoch // self.every

    def stop(self, version: int) -> int:
        """Number of epochs before the next version."""
        return (version + 1) * self.every


EXECUTION_SETTINGS = frozenset(  # how a run is carried out: none of it makes the result another one
    {
        "resume",
        "fresh",
        "workers",
        "max_failures",
        "checkpoints",
        "trackers",
        "collective_timeout_s",
        "placement_timeout_s",
    }
)


class ElasticWorkers(Config):
    """Elastic training: as many workers as the cluster has room for, fewer after a loss, more when nodes come back."""

    min: int = Field(1, ge=1)
    max: int = Field(ge=1)
    resize_check_s: float = Field(60.0, ge=0, description="seconds between checks for room for more workers")

    @model_validator(mode="after")
    def _ordered(self) -> "ElasticWorkers":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class TrainingConfig(JobConfig):
    """What every training has, of an encoder or of a reranker: rows, loop, workers, checkpoints."""

    documentation = "training/README.md"
    job: ClassVar[str]  # the name of the job, and the kind of the artifact that its log is

    data: str | None = Field(None, description="artifact of build; default {run}/data")
    negatives: str | None = Field(None, description="artifact of mine; default {run}/negatives where it exists")
    out: str | None = None
    loss: Loss
    rows: Annotated[list[Kind], Field(min_length=1)] | Literal["auto"] = Field(
        "auto",
        description="tables to train on, of pairs, triplets, mined, judged, labelled; auto: mined negatives and "
        "triplets where they are, else pairs; labelled pairs for a loss on scores",
    )
    max_negatives: int | None = Field(None, ge=0, description="given negatives a row at most")
    negative_sampling: Literal["random", "first"] = Field(
        "random",
        description="which max_negatives of its negatives a row has in an epoch: others each time, or the first",
    )
    max_rows: int | None = Field(None, ge=2, description="train on a stable sample of this many rows")
    homogeneous_batches: bool = Field(
        False, description="global batches of rows of one source each; always so with loss by_source"
    )
    mix: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="how often an epoch takes the rows of a source: {shop: 2, forum: 0.25}; once where not said"
    )
    mix_temperature: float | None = Field(
        None, ge=1, description="take of each source what goes with this root of its rows: the higher, the more alike"
    )
    loop: LoopConfig = LoopConfig()
    validation: ValidationConfig = ValidationConfig()
    card: CardConfig = CardConfig()
    workers: int | ElasticWorkers | None = Field(
        None, description="a number, or {min, max}; default: one a GPU, else one a CPU up to 2"
    )
    gpus: int | None = Field(
        None, ge=0, description="GPUs to ask the autoscaler for, and to wait for; default: those that are up, if any"
    )
    checkpoints: CheckpointConfig = CheckpointConfig()
    trackers: list[AnyTracker] = Field([], description="where metrics go besides the run's own file")
    max_failures: int = Field(2, ge=0, description="restarts from the last checkpoint after a worker's death")
    collective_timeout_s: float = Field(60.0, ge=1, description="how long workers wait for one another in a step")
    placement_timeout_s: float = Field(60.0, ge=1, description="how long a run waits for room for its workers")
    resume: bool = Field(False, description="go on with an unfinished run, or fail where there is none")
    fresh: bool = Field(False, description="start anew, whatever is there")

    @field_validator("workers", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if isinstance(value, str | int | float) and not (str(value).isdigit() and int(value) > 0):
            raise ValueError("wanted a number from 1 on, or min and max")
        return value

    @model_validator(mode="after")
    def _run_fits(self) -> "TrainingConfig":
        if self.resume and self.fresh:
            raise ValueError("resume goes on and fresh starts anew; give one of the two")
        if self.loop.patience and (self.validation.asynchronous or self.loop.validations == 0):
            raise ValueError("loop.patience needs loop.validations in turn, not validation.asynchronous")
        return self

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of rows of a run; `auto` was resolved before (`row_kinds.resolve_rows`)."""
        assert not isinstance(self.rows, str), "rows: auto is resolved when the data is there"
        return self.rows

    def prefers_scored_pairs(self, available: Mapping[Kind, int]) -> bool:
        """Whether `rows: auto` takes labelled pairs, of the rows that there are: where the loss learns from scores."""
        return not (self.loss.assumes_positives() or self.loss.needs_teacher())

    def check_kinds(self, kinds: Sequence[Kind]) -> None:
        """Raise UserError where other settings need kinds of rows that a run does not have."""

    @property
    def one_source_batches(self) -> bool:
        """Whether every global batch holds rows of one source alone, by its own setting or because the loss asks."""
        return self.homogeneous_batches or self.loss.needs_sources()

    @property
    def replay_share(self) -> float | None:
        """Share of the batches that are of another corpus; None without one."""
        return None

    @property
    def least_epochs(self) -> int:
        """Epochs that other settings need."""
        return 1

    def validation_rows(self, data: Artifact) -> int:
        """Number of rows whose forward pass costs about as much as a validation: a text of its sample each."""
        validation = self.validation
        return min(validation.max_documents, data.rows("corpus")) if data.has("corpus") else validation.max_queries

    @property
    def trained_share(self) -> float:
        """Share of the weights that trains, about."""
        return 1.0

    @property
    @abstractmethod
    def paths(self) -> dict[str, str]:
        """Absolute paths of data, negatives, rows, epochs, log and model."""

    def result_settings(self) -> dict[str, Any]:
        """Every setting that decides the result; those of how the run is carried out, and on what, do not."""
        settings = {key: value for key, value in super().result_settings().items() if key not in EXECUTION_SETTINGS}
        return settings | {"loop": {key: value for key, value in settings["loop"].items() if key != "parallel"}}


class TrainConfig(TrainingConfig):
    """Fine-tune an encoder by contrastive learning, with negatives shared by all workers."""

    job = "train"
    common_settings = (
        "run",
        "encoder.model",
        "encoder.max_length",
        "rows",
        "loss",
        "loop.epochs",
        "loop.batch_size",
        "loop.learning_rate",
        "loop.cache_tokens",
        "workers",
    )

    out: str | None = Field(None, description="model directory; default {run}/model")
    loss: AnyLoss = InfoNCE()
    encoder: EncoderConfig = EncoderConfig()
    lora: LoraConfig | None = Field(None, description="train low-rank adapters in place of the weights")
    guide: GuideConfig | None = Field(
        None, description="vectors of another model, for loss.mask.guide_margin or as teacher of embedding_mse"
    )
    passages: TrainPassages | None = Field(
        None, description="train on the passage of a document nearest to the query, such as {tokens: 128}; default: not"
    )
    replay: Replay | None = Field(None, description="another corpus in some of the batches")
    refresh: Refresh | None = Field(None, description="mine the negatives anew by the model as it has become (ANCE)")
    interpolation: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the trained weights in the model, the rest is the base's (WiSE-FT's alpha)",
    )

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        if self.loop.compile and self.encoder.attention in PACKED:
            raise ValueError("loop.compile takes padded texts; set encoder.attention auto, sdpa or eager")
        if self.replay and (self.mix or self.mix_temperature or self.one_source_batches):
            raise ValueError(
                "replay says how often another corpus comes; leave mix, mix_temperature, homogeneous_batches and "
                "loss by_source out"
            )
        if self.lora and self.lora.method not in ("lora", "rslora") and self.interpolation < 1:
            raise ValueError(f"interpolation scales what lora adds; with lora.method {self.lora.method} leave it at 1")
        if self.refresh and self.rows != "auto" and "mined" not in self.rows:
            raise ValueError("refresh mines anew what rows: [mined] trains on; add mined to rows")
        return self

    def check_kinds(self, kinds: Sequence[Kind]) -> None:
        """Raise UserError where `refresh` has no mined rows to mine anew."""
        if self.refresh and "mined" not in kinds:
            raise UserError("refresh mines anew what `mine` found, and no negatives were mined; run `mine` first")

    @property
    def replay_share(self) -> float | None:
        """Share of the batches that are of the replayed corpus."""
        return self.replay.share if self.replay else None

    @property
    def least_epochs(self) -> int:
        """Epochs that one mining more needs."""
        return self.refresh.every + 1 if self.refresh else 1

    @property
    def trained_share(self) -> float:
        """Share of the weights that trains, about."""
        return 0.02 if self.lora else 1.0

    @property
    def paths(self) -> dict[str, str]:
        """Absolute paths of data, model directory and training log."""
        home = files.absolute(self.run)
        return {
            "data": files.absolute(self.data) if self.data else files.join(home, "data"),
            "negatives": files.absolute(self.negatives) if self.negatives else files.join(home, "negatives"),
            "teacher": files.join(home, "teacher"),
            "replay": files.absolute(self.replay.path) if self.replay else "",
            "model": files.absolute(self.out) if self.out else files.join(home, "model"),
            "rows": files.join(home, "rows"),
            "log": files.join(home, "training"),
            "epochs": files.join(home, "training", "epochs"),
        }

    def version(self, number: int) -> dict[str, str]:
        """Paths of a version of the mined negatives, of the rows with them, and of the model that mined them."""
        paths = self.paths
        if number == 0:
            return {name: paths[name] for name in ("negatives", "rows")}
        home = files.join(paths["log"], "refresh", f"{number:05d}")
        return {name: files.join(home, name) for name in ("negatives", "rows", "model")}

    def recipes(self) -> list[str]:
        """Return the recipe of the replayed corpus."""
        return [self.replay.recipe] if self.replay and self.replay.recipe else []
