"""The run of steps: from the newest whole checkpoint to the end, with what is measured, kept and said on the way."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from training.data.epoch_reader import StepRef, prefetch
from training.loop import heap
from training.loop.checkpoint import Checkpoints, Keeper, Progress
from training.loop.step import Loop, LoopConfig, Validate, Work
from training.loop.throughput import Meter

ASK_S = 5.0  # seconds of the ranks' common clock between questions whether a node is to go


class Drive:
    """One rank's run. Every decision is the same on all ranks: it follows from the step, or from what they agreed on.

    `validate` measures with all ranks, before the first step and, unless that is done `beside` training, at each
    milestone; `metric` is the figure that early stopping watches.
    """

    def __init__(
        self,
        loop: Loop,
        keeper: Keeper,
        validate: Validate | None,
        plan: str = "",
        metric: str = "",
        checkpoints: Checkpoints | None = None,
        *,
        beside: bool = False,
    ) -> None:
        self.loop, self.keeper, self.validate, self.metric, self.beside = loop, keeper, validate, metric, beside
        self.when = checkpoints or Checkpoints()
        config = loop.config
        self.progress = Progress(
            plan=plan, world=loop.size, batch_size=config.batch_size, total=loop.total, seed=config.seed
        )
        self.due = milestones(loop.total, config.validations)
        self.meter = Meter(loop.module.encoder)
        self.asked = self.saved = 0.0

    def run(self) -> None:
        """Train to the end of the run or of the feed, or until validations no longer gain."""
        self._restore()
        if self.progress.step == 0 and self.validate:
            self._log({"step": 0, **self.loop.measure(self.validate)})
        if self._over():
            return
        steps = prefetch(self.loop.plan(self.progress.step), self.loop.work)
        for step, batch, work in self.meter.waited(steps):
            self._step(step, batch, work)
            if self._over():
                return

    def _restore(self) -> None:
        """Go on from the newest whole checkpoint where there is one."""
        before, found = None, self.keeper.restore()
        if found:
            before = self.loop.state(self.progress).read(Path(found))
            self.progress = replace(before, world=self.loop.size)
        self.keeper.begin(self.progress, before)

    def _step(self, step: int, batch: StepRef, work: Work) -> None:
        """Take one step and do what is due after it."""
        loop = self.loop
        bad = loop.optimizer.bad
        try:
            report = loop.step(work, step)
        finally:
            if loop.optimizer.bad > bad:
                self._set_aside(step, work)
        self.meter.add(len(batch), work.columns.values())
        done = step + 1
        self.keeper.taken(done, work.rows.tolist())
        self.progress = replace(self.progress, step=done, samples=self.progress.samples + len(batch))
        if done % loop.config.log_every == 0 or done == loop.total:
            heap.trim()
            place = {"step": done, "steps": loop.total, "epoch": done / loop.steps}
            speed = self.meter.read() | loop.pace.read()
            self._log(place | report | speed | {"bad_steps": loop.optimizer.bad, "workers": loop.size})
        ends = loop.feed.ends(batch)
        if done in self.due:
            self._milestone(durable=ends)
        elif ends or self._leaving():
            self._save({}, durable=True)
        elif self._old():
            self._save({})

    def _milestone(self, *, durable: bool) -> None:
        """Validate in turn where that is wanted, and keep a checkpoint; the last one is stored before this returns."""
        found: dict[str, float] = {}
        if self.validate and not self.beside:
            found = self.loop.measure(self.validate)
            self._log({"step": self.progress.step, **found})
            if self.metric in found:
                self.progress = judged(self.progress, self._agreed(found[self.metric]), self.loop.config)
        self._save(found, durable=durable or self._over(), milestone=True)
        if self.progress.stale and self._stale() and self.loop.rank == 0:
            best, stale = self.progress.best, self.progress.stale
            self.keeper.note(self.progress.step, f"stopped early: {stale} validations no better than {best:.4f}")
        self.meter.reset()

    def _save(self, metrics: dict[str, float], durable: bool = False, milestone: bool = False) -> None:
        state = self.loop.state(self.progress)
        self.keeper.save({"step": self.progress.step, **metrics}, state, durable=durable, milestone=milestone)
        self.saved = self.loop.pace.clock

    def _old(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        if self.when.steps and self.progress.step % self.when.steps == 0:
            return True
        return self.when.minutes is not None and self.loop.pace.clock - self.saved >= 60 * self.when.minutes

    def _leaving(self) -> bool:
        """Whether a node has been told to go: then a checkpoint is made before it does."""
        if self.loop.pace.clock - self.asked < ASK_S:
            return False
        self.asked = self.loop.pace.clock
        if not self.keeper.leaving():
            return False
        if self.loop.rank == 0:
            self.keeper.note(self.progress.step, "a node is to go; a checkpoint is made first")
        return True

    def _stale(self) -> bool:
        patience = self.loop.config.patience
        return patience is not None and self.progress.stale >= patience

    def _over(self) -> bool:
        return self.progress.step >= self.loop.total or self._stale()

    def _agreed(self, value: float) -> float:
        """Rank 0's value: machines of other kinds may differ in the last digit, and with it in what they decide."""
        if self.loop.size == 1:
            return value
        agreed = torch.tensor([value], dtype=torch.float64, device=self.loop.module.encoder.device)
        dist.broadcast(agreed, 0)
        return float(agreed)

    def _set_aside(self, step: int, work: Work) -> None:
        """Keep the rows of a batch that was skipped, for inspection."""
        self.keeper.set_aside(step, self.loop.described(work))
        if self.loop.rank == 0:
            self.keeper.note(step, f"the gradient of step {step} is not finite: skipped, its rows are in training/bad")

    def _log(self, row: dict[str, Any]) -> None:
        if self.loop.rank == 0:
            self.keeper.log({name: _finite(value) for name, value in row.items()})


def judged(progress: Progress, figure: float, config: LoopConfig) -> Progress:
    """Take in a validation: a better one is the new best, another one makes the run staler."""
    if math.isfinite(figure) and (progress.best is None or figure > progress.best + config.min_delta):
        return replace(progress, best=figure, stale=0)
    return replace(progress, stale=progress.stale + 1)


def milestones(total: int, count: int) -> set[int]:
    """Steps after which to validate and save: `count` of them evenly spread, the last step always."""
    return {total} | {round(total * part / count) for part in range(1, count)} - {0} if count else {total}


def _finite(value: Any) -> Any:
    """None for what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
