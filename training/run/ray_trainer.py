"""Training with Ray Train: it places the workers, stores their checkpoints and restarts them when one dies."""

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar

from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.storage import files
from pipeline.storage.artifact import Artifact
from training.loop.checkpoint import find_damage
from training.loop.trainer import VALIDATION_S
from training.loop.validation_sample import save_validation
from training.run.config import ElasticWorkers, TrainingConfig
from training.run.jsonl_log import JsonlLog
from training.run.progress_log import ProgressPrinter, validation_share
from training.run.resources import CapacityWatch, Resources, plan_resources
from training.run.run_store import METRICS, async_validations, local_checkpoint
from training.run.worker import train_worker

T = TypeVar("T")
NAME = "ray"  # of Ray Train's directory below the run's log
SNAPSHOT = "checkpoint_manager_snapshot.json"  # where Ray Train names the checkpoints that it has committed


@dataclass(frozen=True)
class RunCheckpoints:
    """Checkpoints of a run, each with its metrics, and all its validations."""

    saved: list[tuple[Any, dict[str, Any]]]
    validations: list[dict[str, Any]]
    metric: str
    log: str

    def best(self) -> Path:
        """Fetch the best complete checkpoint, the newest where none was validated; returns its directory."""
        folder, figures = self._first_complete(lambda row: (row.get(self.metric, float("-inf")), row["step"]))
        kind = f"best by {self.metric} {figures[self.metric]:.4f}" if self.metric in figures else "last"
        say(f"train: checkpoint of step {figures['step']}, the {kind}")
        return folder

    def newest(self) -> tuple[Path, int]:
        """Fetch the newest complete checkpoint; returns its directory and its step."""
        folder, figures = self._first_complete(lambda row: row["step"])
        return folder, int(figures["step"])

    def _first_complete(self, rank: Callable[[dict[str, Any]], Any]) -> tuple[Path, dict[str, Any]]:
        """The complete checkpoint of the highest rank, and its figures; damaged ones are skipped with a line."""
        for checkpoint, figures in sorted(self.saved, key=lambda item: rank(item[1]), reverse=True):
            folder = local_checkpoint(checkpoint)
            if wrong := find_damage(folder):
                say(f"train: {folder.name}: {wrong}; passed over")
                continue
            return folder, figures
        raise UserError(f"no whole checkpoint in {self.log}; give --fresh to start anew")


def fit(config: TrainingConfig, plan: str, stop: int | None = None) -> RunCheckpoints:
    """Run Ray Train to the end, or up to epoch `stop`.

    Raises UserError where the cluster failed the run: no room, a lost worker, memory, a full disk.
    """
    cluster, paths = plan_resources(config), config.paths
    say(f"train: {cluster}")
    data = Artifact.open(paths["data"], "build")
    metric = config.validation.metric_name(data)
    if config.loop.validations:
        save_validation(paths["log"], data, config.validation)
    remove_uncommitted(paths["log"])
    _set_timeouts(config)
    trainer = _make_trainer(config, plan, stop, cluster, metric)
    from ray.train import TrainingFailedError

    from training.run.failures import explain_failure

    try:
        with ProgressPrinter(files.join(paths["log"], METRICS), metric):
            result = _run_interruptibly(trainer.fit, CapacityWatch(cluster, config.placement_timeout_s))
    except TrainingFailedError as error:
        message = explain_failure(error, config.max_failures, config.collective_timeout_s)
        if message is None:
            raise
        raise message from error
    lines = JsonlLog(files.join(paths["log"], METRICS))
    if config.validation.asynchronous:
        _add_validations(lines, async_validations(paths["log"]))
    rows = lines.rows()
    if share := validation_share(rows):
        say(f"train: validating took {share:.0%} of the time of training")
    measured = [{name: row[name] for name in row if name != VALIDATION_S} for row in rows if metric in row]
    return RunCheckpoints(list(result.best_checkpoints or []), measured, metric, paths["log"])


def _make_trainer(config: TrainingConfig, plan: str, stop: int | None, cluster: Resources, metric: str) -> Any:
    """Make the trainer of Ray Train."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from training.run.async_validation import validate_checkpoint
    from training.run.failures import StopOnRepeatableError

    settings = {"config": config.model_dump(mode="json"), "paths": config.paths}
    checked = ray.train.ValidationConfig(
        fn=validate_checkpoint,
        task_config=ray.train.ValidationTaskConfig(fn_kwargs=settings, timeout_s=config.validation.timeout_s),
        ray_remote_kwargs=cluster.validation_task,
    )
    elastic = {}
    if isinstance(config.workers, ElasticWorkers):
        elastic = {"elastic_resize_monitor_interval_s": config.workers.resize_check_s}
    return TorchTrainer(
        train_worker,
        train_loop_config={
            **settings,
            "job": config.job,
            "plan": plan,
            "stop": stop,
            "cpus": cluster.per_worker["CPU"],
            "metric": metric,
        },
        torch_config=TorchConfig(timeout_s=int(config.collective_timeout_s)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.count,
            use_gpu=cluster.on_gpu,
            resources_per_worker=cluster.per_worker,
            **elastic,
        ),
        run_config=ray.train.RunConfig(
            name=NAME,
            storage_path=config.paths["log"],
            failure_config=ray.train.FailureConfig(
                max_failures=config.max_failures, controller_failure_limit=config.max_failures
            ),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.checkpoints.keep,
                checkpoint_score_attribute=metric if config.loop.validations else None,
                checkpoint_score_order="max",
            ),
            callbacks=[StopOnRepeatableError()],
        ),
        validation_config=checked if config.validation.asynchronous else None,
    )


def _set_timeouts(config: TrainingConfig) -> None:
    """Set the timeouts of Ray Train in the environment, unless the user has set them."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", f"{config.placement_timeout_s:g}")
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", f"{config.collective_timeout_s:g}")


def remove_uncommitted(log: str) -> None:
    """Remove directories of checkpoints that Ray Train never committed, left by an interrupted upload."""
    fs, root = files.filesystem(files.join(log, NAME))
    if not fs.exists(root):
        return
    registered = set(committed(log))
    for folder in fs.glob(files.join(root, "checkpoint_*")):
        if fs.isdir(folder) and folder.rstrip("/").rsplit("/", 1)[-1] not in registered:
            fs.rm(folder, recursive=True)


def committed(log: str) -> dict[str, dict[str, Any]]:
    """Names of the checkpoints that Ray Train has committed, with their figures, in the order of their steps."""
    fs, name = files.filesystem(files.join(log, NAME, SNAPSHOT))
    if not fs.exists(name):
        return {}
    snapshot = json.loads(fs.cat_file(name))
    results = [
        *snapshot["checkpoint_results"],
        *([snapshot["latest_checkpoint_result"]] if snapshot["checkpoint_results"] else []),
    ]
    return {
        result["checkpoint_dir_name"]: result["metrics"]
        for result in sorted(results, key=lambda entry: entry["metrics"]["step"])
    }


def prune_checkpoints(config: TrainingConfig) -> None:
    """Remove the checkpoints of a finished run, whose model was saved and checked: they are several times its size."""
    folder = files.join(config.paths["log"], NAME)
    fs, root = files.filesystem(folder)
    if config.checkpoints.keep_finished or not fs.exists(root):
        return
    removed = int(fs.du(root))
    files.remove_folder(folder)
    say(f"train: removed the run's checkpoints, {removed / 1e6:,.0f} MB (checkpoints.keep_finished keeps them)")


def _add_validations(lines: JsonlLog, measured: list[dict[str, Any]]) -> None:
    """Add asynchronous validations that ended after the last row of metrics."""
    rows = lines.rows()
    logged = {row["step"] for row in rows if "steps" not in row and "note" not in row}
    lines.replace([*rows, *(row for row in measured if row["step"] not in logged)])


def _run_interruptibly(work: Callable[[], T], shortage: CapacityWatch) -> T:
    """Call `work` on a thread and wait, so that Ctrl-C works: on the main thread Ray Train would keep it for itself."""
    done: Queue[T | BaseException] = Queue()

    def call() -> None:
        try:
            done.put(work())
        except BaseException as error:
            done.put(error)

    threading.Thread(target=call, daemon=True).start()
    while True:
        with suppress(Empty):
            result = done.get(timeout=0.5)
            if isinstance(result, BaseException):
                raise result
            return result
        shortage.check()
