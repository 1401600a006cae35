"""The training loop of one rank: from the newest complete checkpoint to the end, with validations and checkpoints."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from training.data.epoch_reader import StepRef, prefetch
from training.loop import heap
from training.loop.checkpoint import CheckpointConfig, Progress, RunStore
from training.loop.step import LoopConfig, RankBatch, TrainStep, Validate
from training.loop.throughput import ThroughputMeter

VALIDATION_S = "validation_s"  # seconds of a validation, in its row of the metrics
PREEMPTION_CHECK_S = 5.0  # seconds, by the clock that ranks share, between checks for a preemption notice


class Trainer:
    """The training loop of one rank; all ranks decide alike, from the step or from values that they have exchanged.

    `validate` runs on all ranks before the first step and, unless checkpoints are validated asynchronously, at each
    milestone; `metric` is the figure that early stopping watches.
    """

    def __init__(
        self,
        train_step: TrainStep,
        store: RunStore,
        validate: Validate | None,
        plan: str = "",
        metric: str = "",
        checkpoints: CheckpointConfig | None = None,
        *,
        asynchronous: bool = False,
    ) -> None:
        self.train_step, self.store, self.validate, self.metric = train_step, store, validate, metric
        self.asynchronous = asynchronous
        self.checkpoints = checkpoints or CheckpointConfig()
        config = train_step.config
        self.progress = Progress(
            plan=plan, world=train_step.size, batch_size=config.batch_size, total=train_step.total, seed=config.seed
        )
        self.milestones = milestones(train_step.total, config.validations or 0)
        self.meter = ThroughputMeter(train_step.module.encoder)
        self.preemption_checked = self.last_save = 0.0

    def run(self) -> None:
        """Train to the end of the run or of the feed, or until validations no longer improve."""
        self._restore()
        if self.progress.step == 0 and self.validate:
            self._log({"step": 0, **self._validate(self.validate)})
        if self._finished():
            return
        steps = prefetch(self.train_step.plan(self.progress.step), self.train_step.load_batch)
        for step, ref, batch in self.meter.timed(steps):
            self._step(step, ref, batch)
            if self._finished():
                return

    def _restore(self) -> None:
        """Continue from the newest complete checkpoint where there is one."""
        before, checkpoint = None, self.store.restore()
        if checkpoint:
            before = self.train_step.state(self.progress).read(Path(checkpoint))
            self.progress = replace(before, world=self.train_step.size)
        self.store.begin(self.progress, before)

    def _step(self, step: int, ref: StepRef, batch: RankBatch) -> None:
        """Take one step, then log, validate and save as is due after it."""
        train_step = self.train_step
        bad = train_step.optimizer.bad_steps
        try:
            report = train_step.step(batch, step)
        finally:
            if train_step.optimizer.bad_steps > bad:
                self._save_bad_rows(step, batch)
        self.meter.add(len(ref), batch.inputs[0])
        done = step + 1
        self.store.record_rows(done, batch.rows.tolist())
        self.progress = replace(self.progress, step=done, samples=self.progress.samples + len(ref))
        if done % train_step.config.log_every == 0 or done == train_step.total:
            heap.trim()
            position = {"step": done, "steps": train_step.total, "epoch": done / train_step.steps}
            speed = self.meter.read() | train_step.timer.read()
            counts = {"bad_steps": train_step.optimizer.bad_steps, "workers": train_step.size}
            self._log(position | report | speed | counts)
            self.store.observe(train_step.timer.of_this_rank())
        last = train_step.feed.ends(ref)
        if done in self.milestones:
            self._milestone(durable=last)
        elif last or self._preempted():
            self._save({}, durable=True)
        elif self._save_due():
            self._save({})

    def _milestone(self, *, durable: bool) -> None:
        """Validate, unless that is asynchronous, and save a checkpoint; the last one is stored before this returns."""
        metrics: dict[str, float] = {}
        if self.validate and not self.asynchronous:
            metrics = self._validate(self.validate)
            self._log({"step": self.progress.step, **metrics})
            metrics.pop(VALIDATION_S)
            if self.metric in metrics:
                figure = self._from_rank_zero(metrics[self.metric])
                self.progress = record_validation(self.progress, figure, self.train_step.config)
        self._save(metrics, durable=durable or self._finished(), milestone=True)
        if self.progress.stale and self._out_of_patience() and self.train_step.rank == 0:
            best, stale = self.progress.best, self.progress.stale
            self.store.note(self.progress.step, f"stopped early: {stale} validations no better than {best:.4f}")
        self.meter.reset()

    def _validate(self, validate: Validate) -> dict[str, float]:
        """Figures of a validation, with the seconds that it took."""
        start = time.monotonic()
        metrics = self.train_step.validate(validate)
        return {**metrics, VALIDATION_S: time.monotonic() - start}

    def _save(self, metrics: dict[str, float], durable: bool = False, milestone: bool = False) -> None:
        state = self.train_step.state(self.progress)
        self.store.save({"step": self.progress.step, **metrics}, state, durable=durable, milestone=milestone)
        self.last_save = self.train_step.timer.clock

    def _save_due(self) -> bool:
        """Whether it is time for another checkpoint, by steps or minutes since the last."""
        if self.checkpoints.steps and self.progress.step % self.checkpoints.steps == 0:
            return True
        minutes = self.checkpoints.minutes
        return minutes is not None and self.train_step.timer.clock - self.last_save >= 60 * minutes

    def _preempted(self) -> bool:
        """Whether a node is about to be preempted: then a checkpoint is saved before it goes."""
        if self.train_step.timer.clock - self.preemption_checked < PREEMPTION_CHECK_S:
            return False
        self.preemption_checked = self.train_step.timer.clock
        if not self.store.preempted():
            return False
        if self.train_step.rank == 0:
            self.store.note(self.progress.step, "a node is about to be preempted; a checkpoint is saved first")
        return True

    def _out_of_patience(self) -> bool:
        patience = self.train_step.config.patience
        return patience is not None and self.progress.stale >= patience

    def _finished(self) -> bool:
        return self.progress.step >= self.train_step.total or self._out_of_patience()

    def _from_rank_zero(self, value: float) -> float:
        """Value of rank 0: machines of other kinds may differ in the last digit, and then in what they decide."""
        if self.train_step.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.train_step.module.encoder.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def _save_bad_rows(self, step: int, batch: RankBatch) -> None:
        """Store the rows of a batch that was skipped, for inspection."""
        self.store.save_bad_rows(step, self.train_step.readable_rows(batch))
        if self.train_step.rank == 0:
            self.store.note(step, f"the gradient of step {step} is not finite: skipped, its rows are in training/bad")

    def _log(self, row: dict[str, Any]) -> None:
        if self.train_step.rank == 0:
            self.store.log({name: _finite(value) for name, value in row.items()})


def record_validation(progress: Progress, figure: float, config: LoopConfig) -> Progress:
    """Update the best figure by a validation; one without improvement is counted as stale."""
    if math.isfinite(figure) and (progress.best is None or figure > progress.best + config.min_delta):
        return replace(progress, best=figure, stale=0)
    return replace(progress, stale=progress.stale + 1)


def milestones(total: int, count: int) -> set[int]:
    """Steps after which to validate and save: `count` of them, evenly spread, the last step always."""
    return {total} | {round(total * part / count) for part in range(1, count)} - {0} if count else {total}


def _finite(value: Any) -> Any:
    """None in place of numbers that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
