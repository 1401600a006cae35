"""Stores a run with Ray Train: committed checkpoints, metrics as JSON lines, rows of bad batches, notes."""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.storage import files
from training.loop.checkpoint import CheckpointConfig, Progress, RunStore, TrainingState, find_damage_together
from training.run.jsonl_log import JsonlLog
from training.run.tracker import MetricsWriter, Tracker

METRICS, BAD, VALIDATIONS, LEDGER = "metrics.jsonl", "bad", "validations", "ledger"


class RayRunStore(RunStore):
    """Checkpoints by Ray Train; metrics, notes and rows of bad batches in the run's own directory `log`.

    A checkpoint counts when Ray's controller has committed it. `durable` and uploads `now` wait for that; one that is
    stored beside training is committed a little later, and until then a death goes back to the one before.
    With `measured`, each checkpoint of a milestone is validated by Ray beside training.
    """

    def __init__(
        self, log: str, config: CheckpointConfig, trackers: Sequence[Tracker] = (), *, measured: bool = False
    ) -> None:
        import ray.train

        self.log_path, self.config, self.trackers, self.measured = log, config, trackers, measured
        self.lines = JsonlLog(files.join(log, METRICS))
        self.rank = int(ray.train.get_context().get_world_rank())
        self.ledger = JsonlLog(files.join(log, LEDGER, f"rank-{self.rank}.jsonl"))
        self.async_upload = config.upload == "async" or (config.upload == "auto" and not self.lines.local)
        self.writers: list[MetricsWriter] = []
        self.damaged: list[str] = []
        self.opening_notes: list[str] = []  # what else the user is told when the run begins
        self.logged_steps: set[int] = set()  # steps whose validation beside training is in the metrics
        self.notice: Any = None
        self.gauges = Gauges({"rank": str(self.rank)})

    def restore(self) -> Path | None:
        """Return the newest committed checkpoint that is complete; damaged ones are noted and skipped."""
        for checkpoint in _committed():
            folder = local_checkpoint(checkpoint)
            wrong = find_damage_together(folder)
            if not wrong:
                return folder
            self.damaged.append(f"{folder.name}: {wrong}; going back to the one before")
        if self.damaged:
            self.damaged.append("no checkpoint is whole: the run begins anew")
        return None

    def begin(self, progress: Progress, before: Progress | None) -> None:
        """Cut the metrics back to where the run begins, and say where that is."""
        remove_copies()
        if self.rank != 0:
            return
        rows = [row for row in self.lines.rows() if before is not None and row["step"] <= progress.step]
        self.logged_steps = {row["step"] for row in rows if "steps" not in row and "note" not in row}
        notes = [*self.damaged, *self.opening_notes]
        if before:
            workers = f"{progress.world} workers" if progress.world > 1 else "1 worker"
            was = "" if before.world == progress.world else f", {before.world} before"
            notes.append(f"goes on after step {progress.step} of {progress.total} with {workers}{was}")
        self.lines.replace([*rows, *({"step": progress.step, "note": note} for note in notes)])
        self._cut_ledger(progress.step if before else 0)
        self.writers = [tracker.open(self.log_path, progress.step) for tracker in self.trackers] + [self.gauges]

    def log(self, row: dict[str, Any]) -> None:
        """Add a row of metrics, here and in every tracker, after new asynchronous validations."""
        for item in [*self._new_async_validations(), row]:
            self.lines.append(item)
            for writer in self.writers:
                writer.log(item)

    def observe(self, figures: dict[str, float]) -> None:
        """Set this rank's gauges."""
        self.gauges.log(figures)

    def note(self, step: int, text: str) -> None:
        """Add a sentence for the user."""
        self.lines.append({"step": step, "note": text})

    def save(
        self, metrics: dict[str, float], state: TrainingState, *, durable: bool = False, milestone: bool = False
    ) -> None:
        """Report a checkpoint; where `durable`, wait until the controller has committed it.

        Rank 0 writes it, or every rank its rows where ranks share the weights: Ray puts their files into one directory,
        and commits it when all have reported.
        """
        import ray.train
        from ray.train import CheckpointConsistencyMode, CheckpointUploadMode

        now = durable or not self.async_upload
        if self.rank == 0 or state.sharded:
            ray.train.report(
                metrics,
                checkpoint=ray.train.Checkpoint.from_directory(_write_checkpoint(state)),
                checkpoint_upload_mode=CheckpointUploadMode.SYNC if now else CheckpointUploadMode.ASYNC,
                delete_local_checkpoint_after_upload=True,
                validation=self.measured and milestone,
            )
        else:
            ray.train.report(metrics, checkpoint=None)
        if now:
            ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)

    def record_rows(self, step: int, rows: list[int]) -> None:
        """Add a step to this rank's ledger."""
        if self.config.ledger:
            self.ledger.append({"step": step, "rows": rows})

    def save_bad_rows(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Write this rank's rows of a bad batch as a file of its own."""
        files.write_json(
            files.join(self.log_path, BAD, f"step-{step:06d}-rank-{self.rank}.json"), {"step": step, "rows": rows}
        )

    def preempted(self) -> bool:
        """Whether Ray says that a node of the run will be drained or reclaimed; True once for each notice."""
        import ray.train

        notice = ray.train.get_preemption_info()
        fresh = notice is not None and notice != self.notice
        self.notice = notice
        return fresh

    def end(self) -> None:
        """Flush the logs and close the trackers."""
        self.ledger.flush()
        if self.rank == 0:
            self.lines.flush()
            for writer in self.writers:
                writer.close()

    def _cut_ledger(self, step: int) -> None:
        """Remove steps of all ranks after the one that the run continues from: they are trained again."""
        fs, root = files.filesystem(files.join(self.log_path, LEDGER))
        for name in fs.glob(files.join(root, "*.jsonl")) if fs.exists(root) else ():
            ledger = JsonlLog(fs.unstrip_protocol(name))
            ledger.replace([row for row in ledger.rows() if row["step"] <= step])

    def _new_async_validations(self) -> list[dict[str, Any]]:
        """Asynchronous validations that ended since the last row."""
        if not self.measured:
            return []
        fresh = [row for row in async_validations(self.log_path) if row["step"] not in self.logged_steps]
        self.logged_steps |= {row["step"] for row in fresh}
        return fresh


class Gauges(MetricsWriter):
    """The newest figures as gauges of Ray's metrics, which Prometheus reads from every node, under labels `tags`."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.tags = dict(tags)
        self.gauges: dict[str, Any] = {}

    def log(self, row: dict[str, Any]) -> None:
        """Set a gauge a figure: `ray_tripletail_train_loss` and so on."""
        from ray.util.metrics import Gauge

        for name, value in row.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                continue
            if name not in self.gauges:
                safe = "".join(letter if letter.isalnum() else "_" for letter in name)
                about = f"{name} of the training run"
                self.gauges[name] = Gauge(f"tripletail_train_{safe}", about, tuple(self.tags))
                self.gauges[name].set_default_tags(self.tags)
            self.gauges[name].set(float(value))


def _write_checkpoint(state: TrainingState) -> str:
    """Write a checkpoint to a new directory, which Ray removes after the upload; removed here on an error."""
    folder = tempfile.mkdtemp(prefix="checkpoint-")
    try:
        state.write(Path(folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _committed() -> list[Any]:
    """Checkpoints that Ray's controller knows, newest first."""
    import ray.train
    from ray.train import CheckpointConsistencyMode

    reported = ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)
    return [item.checkpoint for item in sorted(reported, key=lambda item: item.metrics["step"], reverse=True)]


def local_checkpoint(checkpoint: Any) -> Path:
    """Local directory of a checkpoint of Ray Train; one on a store is copied here, until `remove_copies`."""
    if checkpoint.filesystem.type_name == "local":
        return Path(checkpoint.path)
    _copies.append(tempfile.mkdtemp(prefix="checkpoint-"))
    return Path(checkpoint.to_directory(_copies[-1]))


_copies: list[str] = []  # of checkpoints on a store, made by this process


def remove_copies() -> None:
    """Remove the copies of checkpoints that this process has made; what was loaded from them is in memory."""
    while _copies:
        shutil.rmtree(_copies.pop(), ignore_errors=True)


def async_validations(log: str) -> list[dict[str, Any]]:
    """Asynchronous validations, in the order of their steps."""
    fs, root = files.filesystem(files.join(log, VALIDATIONS))
    names = fs.glob(files.join(root, "*.json")) if fs.exists(root) else []
    return sorted((json.loads(fs.cat_file(name)) for name in names), key=lambda row: row["step"])
