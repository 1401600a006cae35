"""One training step of one rank on plain torch.distributed: the same under Ray Train, torchrun or in one process."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.encoder.cpu_dropout import use_cpu_dropout
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.precision import compute_dtype
from pipeline.encoder.tokenizer import Tokens
from pipeline.text.normalize import stable_id
from training.data import batching
from training.data.epoch import EpochSettings
from training.data.epoch_reader import EpochFeed, InMemoryEpochs, StepRef, slots_for
from training.data.rows import Rows
from training.loop.checkpoint import Progress, TrainingState
from training.loop.checkpointing import checkpoint_layers
from training.loop.compile import compile_transformer, explain_failures
from training.loop.frozen_base import FrozenBase
from training.loop.gradient_cache import SeededTexts
from training.loop.optimizer import Optimizer, States
from training.loop.parallel import Parallel, place
from training.loop.placement import TextEncoder
from training.loop.throughput import RankTimer
from training.loop.weight_averaging import Averaging, WeightAverage
from training.losses.gather import gather, world
from training.losses.loss import Batch, Loss, single_losses

ROW_SCORES = ("query.score", "query.weight", "query.teacher")
TEXT_COLUMNS = ("query", "positive", "negative")
Validate = Callable[[TextEncoder], dict[str, float]]


class LoopConfig(Config):
    """Length of the training, optimiser, batch size and memory."""

    epochs: int | None = Field(None, ge=1, description="passes over the rows; default: by their number")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimiser steps")
    batch_size: int = Field(64, ge=2, description="rows of the global batch, over all workers")
    learning_rate: float = Field(5e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    optimizer_states: States = Field(
        "float32", description="of AdamW, between steps; bfloat16 takes 4 bytes a weight in place of 8"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this global norm")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of the forward pass")
    cache_tokens: int | None = Field(
        None,
        ge=16,
        description="gradient cache: encode in chunks of this many padded tokens a worker, for batches of any size",
    )
    gradient_checkpointing: bool = Field(False, description="keep fewer activations, compute them again in backward")
    parallel: Parallel = Field(
        "ddp", description="fsdp: workers share weights, gradients and optimiser states of a model too large for one"
    )
    compile: bool = Field(False, description="torch.compile the transformer; pays off in long runs")
    dropout: float | None = Field(None, ge=0, lt=1, description="override the model's dropout")
    average: Averaging | None = Field(None, description="validate and save a running average of the weights")
    seed: int = 13
    slots: int | None = Field(None, ge=1, description="parts of a batch, balanced by tokens, that workers share")
    dropout_by_slot: bool = Field(
        False, description="the same dropout for any number of workers, a tenth slower; always on in elastic runs"
    )
    validations: int | None = Field(
        None,
        ge=0,
        description="how often to validate and save a checkpoint, evenly spread over the steps; default: up to 4 "
        "times, as often as a tenth of the training pays for",
    )
    log_every: int = Field(5, ge=1, description="steps between lines of metrics")
    max_bad_steps: int = Field(5, ge=0, description="stop after more than this many steps whose gradient is not finite")
    patience: int | None = Field(None, ge=1, description="stop after this many validations without improvement")
    min_delta: float = Field(0.0, ge=0, description="smallest gain over the best validation that counts as improvement")

    @model_validator(mode="after")
    def _parallel_fits(self) -> "LoopConfig":
        if self.parallel == "fsdp" and self.compile:
            raise ValueError("parallel fsdp gathers weights by blocks, which compile cannot cut; leave one of them out")
        if self.parallel == "fsdp" and self.precision == "float16":
            raise ValueError("parallel fsdp takes precision bfloat16 or float32: float16 has a loss scale a worker")
        return self


@dataclass(frozen=True)
class RankBatch:
    """One rank's rows of a global batch: token ids, id columns, row numbers, and its slots with the rows of each."""

    columns: dict[str, Tokens]
    inputs: tuple[Tokens, list[int]]  # of `TrainStep.inputs`: what is encoded
    ids: dict[str, Tensor]
    rows: batching.Ints
    slots: list[int]
    counts: list[int]


class TrainStep:
    """The model, loss, data and optimiser of one rank, and the step that they take together."""

    def __init__(
        self,
        encoder: Encoder,
        loss: Loss,
        data: Rows | EpochFeed,
        config: LoopConfig,
        device: str | None = None,
    ) -> None:
        """Train on a feed of composed epochs, or on rows in memory, which every rank composes for itself.

        `device` is where to compute, unless it is where the encoder's weights are: a model that ranks share comes to
        the GPUs from main memory.
        """
        self.config, self.loss = config, loss
        self.device = torch.device(device) if device else encoder.device
        self.rank, self.size = world()
        if config.batch_size < 4 * self.size:
            raise UserError(
                f"batch_size {config.batch_size} is too small for {self.size} workers; at least 4 rows each"
            )
        if self.rank == 0 and (others := compared_otherwise(loss, encoder.similarity)):
            say(
                f"train: the model is compared by {encoder.similarity}, loss {', '.join(others)}; infonce, kl, "
                "listwise and margin_mse compare by either"
            )
        self.autocast = compute_dtype(config.precision, self.device.type)
        if self.device.type == "cuda" and not config.compile:
            encoder.pack_for_training("cuda", self.autocast)
        placed = partial(place, config.parallel, precision=self.autocast, device=self.device)
        self.base = FrozenBase(encoder, placed) if loss.needs_base() else None
        if config.dropout is not None:
            _set_dropout(encoder, config.dropout)
        if encoder.packed and self.device.type == "cpu":
            use_cpu_dropout(encoder)
        if config.gradient_checkpointing:
            checkpoint_layers(encoder)
        if config.compile and encoder.packed:
            raise UserError(
                "loop.compile: packed texts have other shapes each step; set encoder.attention sdpa or eager"
            )
        if config.compile:
            compile_transformer(encoder.transformer, self.device.type)
        self.compile_errors = explain_failures if config.compile else nullcontext
        self.placement = placed(encoder, loss.learnable())
        self.module, self.model = self.placement.module, self.placement.model
        self.timer = RankTimer(self.device)
        self.optimizer = Optimizer(
            self.module,
            self.autocast,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            max_bad_steps=config.max_bad_steps,
            states=config.optimizer_states,
        )
        self.encoder_pass = self.placement.encoder_pass(self.encode, config.cache_tokens)
        self.feed = data if isinstance(data, EpochFeed) else self._compose(data)
        self.steps, self.plan_id = self.feed.steps, stable_id(self.feed.reader(0).epoch.manifest.fingerprint)
        self.total = min(config.max_steps or 1 << 60, (config.epochs or 1) * self.steps)
        self.seeded_dropout = config.dropout_by_slot and _has_dropout(encoder)
        self.average = WeightAverage(self.module, config.average, self.total) if config.average else None

    def _compose(self, rows: Rows) -> EpochFeed:
        config, slots = self.config, slots_for(self.config.slots, self.size)
        return EpochFeed(
            InMemoryEpochs(rows, self.module.encoder.tokenize, EpochSettings(config.batch_size, config.seed, slots))
        )

    def plan(self, start: int) -> Iterator[tuple[int, StepRef]]:
        """Yield (step, reference to its batch) from step `start` to the last."""
        return self.feed.plan(start, self.total)

    def load_batch(self, ref: StepRef) -> RankBatch:
        """Read this rank's rows of a global batch."""
        part = self.feed.rank_rows(ref, self.rank, self.size)
        ids = {name: torch.from_numpy(value).to(self.device) for name, value in part.columns.items()}
        inputs = self.inputs(part.texts, part.columns["negative.row"])
        return RankBatch(part.texts, inputs, ids, part.rows, part.slots, part.counts)

    def encode(self, tokens: Tokens, skip: list[int]) -> Tensor:
        """Encode token ids of R texts into [R, D], in the precision of the forward pass."""
        with self._precision(), self.compile_errors():
            vectors: Tensor = self.model(tokens, skip)
        return vectors

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast != torch.float32)

    def embed(self, batch: RankBatch, step: int) -> Batch:
        """Encode this rank's texts in one pass and gather those of all ranks."""
        tokens, skips = batch.inputs
        vectors = self.encoder_pass(tokens, skips, self._pieces(batch, step))
        columns = self.vectors_of(batch, vectors)
        self.timer.mark_gather()
        gathered = gather(columns, batch.ids, step=step, plan=self.plan_id)
        with self._precision():
            base = self.base(tokens, skips).to(vectors.dtype) if self.base else None
        return Batch.from_gathered(gathered, step=step, progress=step / self.total, base=base)

    def inputs(self, columns: dict[str, Tokens], row_of_negative: batching.Ints) -> tuple[Tokens, list[int]]:
        """Token ids of the R texts that are encoded, and leading tokens of each that pooling leaves out."""
        encoder = self.module.encoder
        tokens = [row for name in TEXT_COLUMNS for row in columns[name]]
        queries, others = len(columns["query"]), len(tokens) - len(columns["query"])
        return tokens, [encoder.prompt_length("query")] * queries + [encoder.prompt_length("document")] * others

    def vectors_of(self, batch: RankBatch, vectors: Tensor) -> dict[str, Tensor]:
        """Vectors by column, of those [R, D] of the inputs."""
        counts = [len(batch.columns[name]) for name in TEXT_COLUMNS]
        return dict(zip(TEXT_COLUMNS, torch.split(vectors, counts), strict=True))

    def row_of_inputs(self, batch: RankBatch) -> batching.Ints:
        """The row [R] that each input belongs to."""
        rows = np.arange(len(batch.rows))
        return np.concatenate([rows, rows, batch.ids["negative.row"].cpu().numpy()])

    def _pieces(self, batch: RankBatch, step: int) -> list[SeededTexts] | None:
        """Texts of each slot with a seed of its own, so that dropout is the same for any number of ranks."""
        if not self.seeded_dropout:
            return None
        slot_of_text = np.repeat(batch.slots, batch.counts)[self.row_of_inputs(batch)]
        seed = f"{self.config.seed}/{step}"
        return [(stable_id(f"{seed}/{slot}"), np.flatnonzero(slot_of_text == slot)) for slot in batch.slots]

    def backward(self, batch: RankBatch, step: int) -> dict[str, float]:
        """Run forward and backward of a global batch; every rank ends with the gradients of the loss on all of it."""
        self.timer.begin()
        self.optimizer.zero_grad()
        global_batch = self.embed(batch, step)
        share = self.loss(global_batch, self.encoder_pass.scalars)
        self.encoder_pass.backward(self.optimizer.scale_loss(share.loss * self.size))
        return self.timer.sum_over_ranks({"loss": share.loss.detach(), **share.report})

    def step(self, batch: RankBatch, step: int) -> dict[str, float]:
        """Take one optimiser step; a batch whose gradient is not finite is skipped and counted."""
        torch.manual_seed(stable_id(f"{self.config.seed}/{step}/{self.rank}"))
        self.module.train()
        report = self.backward(batch, step)
        rate = learning_rate_at(step, self.total, self.config)
        report |= self.optimizer.step(step, rate, lambda: self.backward(batch, step))
        if self.average:
            self.average.update(step)
        return report

    def readable_rows(self, batch: RankBatch) -> list[dict[str, Any]]:
        """Rows of this rank in readable form: ids as they are gathered, texts as the model saw them."""
        ids = {name: value.tolist() for name, value in batch.ids.items()}
        texts = {name: self.module.encoder.decode(rows) for name, rows in batch.columns.items()}
        owner = ids.get("negative.row", [])
        return [
            {
                "query_id": ids["query.id"][row],
                "positive_id": ids["positive.id"][row],
                "query": texts["query"][row],
                "positive": texts["positive"][row],
                "negatives": [text for text, of in zip(texts["negative"], owner, strict=True) if of == row],
                **{name: ids[name][row] for name in ("query.label",) if name in ids},
                **{name: _bits_as_text(ids[name][row]) for name in ROW_SCORES if name in ids},
            }
            for row in range(len(texts["query"]))
        ]

    def state(self, progress: Progress) -> TrainingState:
        """Everything that a checkpoint holds."""
        return TrainingState(self.module, self.optimizer, progress, self.average)

    def validate(self, validate: Validate) -> dict[str, float]:
        """Validate the weights that would be saved now: their average where there is one."""
        with self.average.applied() if self.average else nullcontext():
            return validate(self.placement.text_encoder(self.encode))


def learning_rate_at(step: int, total: int, config: LoopConfig) -> float:
    """Learning rate of a step: linear warm-up, then linear, cosine or no decay to zero."""
    rise = config.warmup * total
    if step < rise:
        return config.learning_rate * (step + 1) / (math.floor(rise) + 1)
    part = (step - rise) / max(1e-9, total - rise)
    fall = {"linear": 1 - part, "cosine": 0.5 * (1 + math.cos(math.pi * part)), "constant": 1.0}[config.schedule]
    return config.learning_rate * fall


def _bits_as_text(bits: int) -> str:
    """Text of a float64 that was gathered as its bits: it may be what is wrong with a row."""
    return repr(float(np.int64(bits).view(np.float64)))


def compared_otherwise(loss: Loss, similarity: str) -> list[str]:
    """Say of the losses that a loss is made of which compare otherwise than the model; distances go with the cosine."""
    names = [(single.type, single.compares_by()) for single in single_losses(loss)]
    cosine = similarity == "cosine"
    others = [(kind, by) for kind, by in names if by != similarity and not (cosine and by != "dot")]
    return [f"{kind} by {by}" for kind, by in dict.fromkeys(others)]


def _set_dropout(module: nn.Module, share: float) -> None:
    for name, part in module.named_modules():
        if "lora_dropout" not in name:
            for rate in _dropout_rates(part):
                setattr(part, rate, share)


def _has_dropout(module: nn.Module) -> bool:
    """Whether a module uses dropout."""
    return any(getattr(part, rate) > 0 for part in module.modules() for rate in _dropout_rates(part))


def _dropout_rates(part: nn.Module) -> list[str]:
    """Names of the attributes that are rates of dropout: of a dropout layer, or of attention, which has its own."""
    held = [name for name, value in vars(part).items() if "dropout" in name and isinstance(value, float)]
    return ["p", *held] if isinstance(part, nn.Dropout) else held
