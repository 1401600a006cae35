"""A training step and the run of steps, on plain torch.distributed: the same under Ray Train, torchrun or alone."""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import Config
from pipeline.dropout import cheapen
from pipeline.encoder import Encoder, Tokens, compute_dtype
from pipeline.errors import UserError
from training import batches, memory
from training.average import Average, Averaging
from training.checkpoint import Keeper, Progress, State
from training.compiled import compile_calls, told
from training.frozen import Frozen
from training.gather import gather, world
from training.gradcache import Cached, Plain
from training.losses.objective import Batch, Objective
from training.meter import Meter
from training.optimizer import Optimizer

COLUMNS = ("query", "positive", "negative")
Validate = Callable[[Encoder], dict[str, float]]
Compose = Callable[[batches.Rows, int, int, int], batches.Epoch]


class LoopConfig(Config):
    """How long, how fast and how big."""

    epochs: int = Field(1, ge=1, description="passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimiser steps")
    batch_size: int = Field(64, ge=2, description="rows of the global batch, over all workers")
    learning_rate: float = Field(5e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises")
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this global norm")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of the forward pass")
    cache_tokens: int | None = Field(
        None, ge=16, description="gradient cache: memory of this many padded tokens a worker, whatever the batch"
    )
    gradient_checkpointing: bool = Field(False, description="keep fewer activations, compute them again in backward")
    compile: bool = Field(False, description="torch.compile the transformer: worth it for long runs")
    dropout: float | None = Field(None, ge=0, lt=1, description="override the model's dropout")
    average: Averaging | None = Field(None, description="validate and save a running average of the weights")
    seed: int = 13
    validations: int = Field(4, ge=0, description="how often to measure retrieval and keep a checkpoint, evenly spread")
    log_every: int = Field(5, ge=1, description="steps between lines of metrics")
    max_bad_steps: int = Field(5, ge=0, description="stop after this many steps whose gradient is not finite")


class Embed(nn.Module):
    """The encoder and the loss's learned scalars as one module, so that DDP reduces their gradients together."""

    def __init__(self, encoder: Encoder, learned: Mapping[str, float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.learned = nn.ParameterDict({name: nn.Parameter(torch.tensor(value)) for name, value in learned.items()})

    def forward(self, tokens: Tokens, skip: list[int]) -> Tensor:
        """Token ids of R texts of all columns into [R, D], in one call so that one backward reduces gradients once."""
        vectors: Tensor = self.encoder.encode_tokens(tokens, skip)
        return vectors


@dataclass(frozen=True)
class Work:
    """One rank's part of a global batch, tokenised."""

    columns: dict[str, Tokens]
    ids: dict[str, Tensor]


class Loop:
    """Everything one rank needs to train."""

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        rows: batches.Rows,
        config: LoopConfig,
        compose: Compose = batches.compose,
    ) -> None:
        self.config, self.rows, self.objective, self.compose = config, rows, objective, compose
        self.rank, self.size = world()
        if config.batch_size < 4 * self.size:
            raise UserError(
                f"batch_size {config.batch_size} is too small for {self.size} workers; at least 4 rows each"
            )
        self.base = Frozen(encoder) if objective.needs_base() else None
        if config.dropout is not None:
            _set_dropout(encoder, config.dropout)
        if encoder.device.type == "cpu" and not config.compile:
            cheapen(encoder)
        if config.gradient_checkpointing:
            _checkpoint(encoder.transformer)
        if config.compile and encoder.packed:
            raise UserError(
                "loop.compile: packed texts have other shapes each step; set encoder.attention sdpa or eager"
            )
        if config.compile:
            compile_calls(encoder.transformer, encoder.device.type)
        self.told = told if config.compile else nullcontext
        self.module = Embed(encoder, objective.learned()).to(encoder.device)
        self.model: nn.Module = self.module
        if self.size > 1:
            self.model = DistributedDataParallel(self.module, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.autocast = compute_dtype(config.precision, encoder.device.type)
        self.optimizer = Optimizer(
            self.module,
            self.autocast,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            max_bad_steps=config.max_bad_steps,
        )
        learned = dict(self.module.learned.items())
        self.passes: Plain | Cached = Plain(self.encode, learned)
        if config.cache_tokens is not None:
            self.passes = Cached(self.encode, self.model, learned, config.cache_tokens, encoder.cut)
        self.cost = np.array(
            [
                len(a) + len(p) + sum(map(len, n))
                for a, p, n in zip(rows.anchors, rows.positives, rows.negatives, strict=True)
            ]
        )
        self.first = compose(rows, config.batch_size, config.seed, 0)
        if not self.first.batches:
            raise UserError(f"training rows: {len(rows)} are too few for a batch of {config.batch_size}")
        self.total = min(config.max_steps or 1 << 60, config.epochs * len(self.first.batches))
        self.average = Average(self.module, config.average, self.total) if config.average else None

    def plan(self, start: int) -> Iterator[tuple[int, batches.Ints]]:
        """Yield (step, global batch) from step `start` to the last."""
        step, epoch, composed = 0, 0, self.first
        while step < self.total:
            for batch in composed.batches:
                if step >= start:
                    yield step, batch
                step += 1
                if step == self.total:
                    return
            epoch += 1
            composed = self.compose(self.rows, self.config.batch_size, self.config.seed, epoch)

    def work(self, batch: batches.Ints) -> Work:
        """Take this rank's rows of a global batch and tokenise them."""
        mine = batches.deal(batch, self.cost, self.rank, self.size)
        rows, encoder = self.rows, self.module.encoder
        texts = {
            "query": [rows.anchors[row] for row in mine],
            "positive": [rows.positives[row] for row in mine],
            "negative": [text for row in mine for text in rows.negatives[row]],
        }
        device = encoder.device
        return Work(
            {name: encoder.tokenize(texts[name], "query" if name == "query" else "document") for name in COLUMNS},
            {name: torch.from_numpy(value).to(device) for name, value in rows.beside(mine).items()},
        )

    def encode(self, tokens: Tokens, skip: list[int]) -> Tensor:
        """Token ids of R texts into [R, D], in the precision of the forward pass."""
        with self._precision(), self.told():
            vectors: Tensor = self.model(tokens, skip)
        return vectors

    def _precision(self) -> torch.autocast:
        device = self.module.encoder.device.type
        return torch.autocast(device, dtype=self.autocast, enabled=self.autocast != torch.float32)

    def embed(self, work: Work, step: int) -> Batch:
        """Encode this rank's texts in one pass and gather every rank's."""
        encoder = self.module.encoder
        tokens = [row for name in COLUMNS for row in work.columns[name]]
        counts = [len(work.columns[name]) for name in COLUMNS]
        skips = [encoder.prompt_length("query")] * counts[0] + [encoder.prompt_length("document")] * sum(counts[1:])
        vectors = self.passes(tokens, skips)
        columns = dict(zip(COLUMNS, torch.split(vectors, counts), strict=True))
        every = gather(columns, work.ids, step=step)
        with self._precision():
            base = self.base(tokens, skips).to(vectors.dtype) if self.base else None
        return Batch.of(every, step=step, progress=step / self.total, base=base)

    def backward(self, work: Work, step: int) -> dict[str, float]:
        """Forward and backward of one global batch; on every rank the gradients are those of the whole batch's loss."""
        self.optimizer.zero_grad()
        batch = self.embed(work, step)
        share = self.objective(batch, self.passes.learned)
        self.passes.backward(self.optimizer.scaled(share.loss * self.size))
        return _summed({"loss": share.loss.detach(), **share.report})

    def step(self, work: Work, step: int) -> dict[str, float]:
        """One optimiser step; a batch whose gradient is not finite is skipped and counted."""
        torch.manual_seed(batches.stable_id(f"{self.config.seed}/{step}/{self.rank}"))
        self.module.train()
        report = self.backward(work, step)
        report |= self.optimizer.step(step, rate_at(step, self.total, self.config))
        if self.average:
            self.average.update(step)
        return report

    def state(self, done: int, plan: str) -> State:
        """What a checkpoint after `done` steps is made of."""
        return State(self.module, self.optimizer, Progress(done, plan), self.average)

    def measure(self, validate: Validate) -> dict[str, float]:
        """Validate what would be saved now: the average where there is one, else the weights."""
        with self.average.inside() if self.average else nullcontext():
            return validate(self.module.encoder)

    def run(self, keeper: Keeper, validate: Validate | None, plan: str = "") -> None:
        """Train to the end, from the newest checkpoint when there is one."""
        found = keeper.restore()
        start = self.state(0, plan).read(found).step if found else 0
        due = milestones(self.total, self.config.validations)
        if start == 0 and validate:
            self._log(keeper, {"step": 0, **self.measure(validate)})
        meter = Meter(self.module.encoder)
        with ThreadPoolExecutor(1) as pool:
            for step, batch, work in _ahead(pool, self.plan(start), self.work):
                report = self.step(work, step)
                meter.add(len(batch), work.columns.values())
                done = step + 1
                if done % self.config.log_every == 0 or done == self.total:
                    memory.trim()
                    place = {"step": done, "steps": self.total, "epoch": done / len(self.first.batches)}
                    self._log(keeper, place | report | meter.read() | {"bad_steps": self.optimizer.bad})
                if done in due:
                    found_metrics = self.measure(validate) if validate else {}
                    if validate:
                        self._log(keeper, {"step": done, **found_metrics})
                    keeper.save({"step": done, **found_metrics}, self.state(done, plan))
                    meter = Meter(self.module.encoder)

    def _log(self, keeper: Keeper, row: dict[str, Any]) -> None:
        if self.rank == 0:
            keeper.log(row)


def milestones(total: int, count: int) -> set[int]:
    """Steps after which to validate and save: `count` of them evenly spread, the last step always."""
    return {total} | {round(total * part / count) for part in range(1, count)} - {0} if count else {total}


def rate_at(step: int, total: int, config: LoopConfig) -> float:
    """Learning rate of a step: linear rise over the warm-up, then linear, cosine or no fall to zero."""
    rise = config.warmup * total
    if step < rise:
        return config.learning_rate * (step + 1) / (math.floor(rise) + 1)
    part = (step - rise) / max(1e-9, total - rise)
    fall = {"linear": 1 - part, "cosine": 0.5 * (1 + math.cos(math.pi * part)), "constant": 1.0}[config.schedule]
    return config.learning_rate * fall


def _ahead(
    pool: ThreadPoolExecutor, plan: Iterator[tuple[int, batches.Ints]], work: Callable[[batches.Ints], Work]
) -> Iterator[tuple[int, batches.Ints, Work]]:
    """Tokenise the next batch while this one trains."""
    item = next(plan, None)
    future = pool.submit(work, item[1]) if item else None
    while item and future:
        coming = next(plan, None)
        ready = future.result()
        future = pool.submit(work, coming[1]) if coming else None
        yield *item, ready
        item = coming


def _summed(shares: dict[str, Tensor]) -> dict[str, float]:
    """Sum shares over ranks in one small collective."""
    values = torch.stack([value.float() for value in shares.values()])
    if world()[1] > 1:
        dist.all_reduce(values)
    return dict(zip(shares, values.tolist(), strict=True))


def _checkpoint(transformer: Any) -> None:
    try:
        newer = getattr(transformer, "activation_checkpointing_enable", None)  # the name of later releases
        (newer or transformer.gradient_checkpointing_enable)({"use_reentrant": False})
    except (AttributeError, ValueError) as error:
        raise UserError(f"loop.gradient_checkpointing: this model has none ({error}); leave it out") from error


def _set_dropout(module: nn.Module, share: float) -> None:
    for name, part in module.named_modules():
        if isinstance(part, nn.Dropout) and "lora_dropout" not in name:
            part.p = share
        if isinstance(getattr(part, "dropout_prob", None), float):
            setattr(part, "dropout_prob", share)  # noqa: B010  attention keeps its own copy
