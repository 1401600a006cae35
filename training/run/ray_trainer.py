"""Ray Train around the workers: it places them, keeps their checkpoints and restarts them when one dies."""

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
from training.run.config import Elastic, TrainConfig
from training.run.jsonl_log import Lines
from training.run.progress_log import Follow
from training.run.resources import Resources, Shortage, resources
from training.run.run_store import METRICS, beside, local
from training.run.worker import train_worker

T = TypeVar("T")
NAME = "ray"  # of Ray Train's directory below the run's log
SNAPSHOT = "checkpoint_manager_snapshot.json"  # where Ray Train names the checkpoints that it has committed


@dataclass(frozen=True)
class Kept:
    """Checkpoints that a run has kept, each with its figures, and what was measured on the way."""

    found: list[tuple[Any, dict[str, Any]]]
    measured: list[dict[str, Any]]
    metric: str
    log: str

    def best(self) -> Path:
        """Bring the best whole checkpoint by the metric, the newest where none was measured; returns its directory."""
        folder, figures = self._whole(lambda figures: (figures.get(self.metric, float("-inf")), figures["step"]))
        kind = f"best by {self.metric} {figures[self.metric]:.4f}" if self.metric in figures else "last"
        say(f"train: checkpoint of step {figures['step']}, the {kind}")
        return folder

    def newest(self) -> tuple[Path, int]:
        """Bring the newest whole checkpoint; returns its directory and its step."""
        folder, figures = self._whole(lambda figures: figures["step"])
        return folder, int(figures["step"])

    def _whole(self, rank: Callable[[dict[str, Any]], Any]) -> tuple[Path, dict[str, Any]]:
        for checkpoint, figures in sorted(self.found, key=lambda one: rank(one[1]), reverse=True):
            folder = local(checkpoint)
            if wrong := find_damage(folder):
                say(f"train: {folder.name}: {wrong}; passed over")
                continue
            return folder, figures
        raise UserError(f"no whole checkpoint in {self.log}; give --fresh to start anew")


def fit(config: TrainConfig, plan: str, stop: int | None = None) -> Kept:
    """Run Ray Train to the end, or up to epoch `stop`.

    Raises UserError where the surroundings failed the run: no place, a lost worker, memory, a full disk.
    """
    given, places = resources(config), config.places
    say(f"train: {given}")
    metric = config.validation.metric_name(Artifact.open(places["data"], "build"))
    tidy(places["log"])
    _limits(config)
    trainer = _trainer(config, plan, stop, given, metric)
    from ray.train import TrainingFailedError

    from training.run.failures import explained

    try:
        with Follow(files.join(places["log"], METRICS), metric):
            result = _waiting(trainer.fit, Shortage(given, config.place_timeout_s))
    except TrainingFailedError as error:
        told = explained(error, config.max_failures, config.collective_timeout_s)
        if told is None:
            raise
        raise told from error
    lines = Lines(files.join(places["log"], METRICS))
    if config.validation.asynchronous:
        _merge(lines, beside(places["log"]))
    measured = [row for row in lines.rows() if metric in row]
    return Kept(list(result.best_checkpoints or []), measured, metric, places["log"])


def _trainer(config: TrainConfig, plan: str, stop: int | None, given: Resources, metric: str) -> Any:
    """Put Ray Train's trainer together."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from training.run.async_validation import measure
    from training.run.failures import Final

    settings = {"config": config.model_dump(mode="json"), "places": config.places}
    checked = ray.train.ValidationConfig(
        fn=measure,
        task_config=ray.train.ValidationTaskConfig(fn_kwargs=settings, timeout_s=config.validation.timeout_s),
        ray_remote_kwargs=given.check,
    )
    elastic = {}
    if isinstance(config.workers, Elastic):
        elastic = {"elastic_resize_monitor_interval_s": config.workers.resize_check_s}
    return TorchTrainer(
        train_worker,
        train_loop_config={**settings, "plan": plan, "stop": stop, "cpus": given.each["CPU"], "metric": metric},
        torch_config=TorchConfig(timeout_s=int(config.collective_timeout_s)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=given.count,
            use_gpu=given.on_gpu,
            resources_per_worker=given.each,
            **elastic,
        ),
        run_config=ray.train.RunConfig(
            name=NAME,
            storage_path=config.places["log"],
            failure_config=ray.train.FailureConfig(
                max_failures=config.max_failures, controller_failure_limit=config.max_failures
            ),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.checkpoints.keep,
                checkpoint_score_attribute=metric if config.loop.validations else None,
                checkpoint_score_order="max",
            ),
            callbacks=[Final()],
        ),
        validation_config=checked if config.validation.asynchronous else None,
    )


def _limits(config: TrainConfig) -> None:
    """Tell Ray Train how long it may wait; what the user's environment says already stays."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", f"{config.place_timeout_s:g}")
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", f"{config.collective_timeout_s:g}")


def tidy(log: str) -> None:
    """Remove what an interrupted storing left: directories of checkpoints that Ray Train never committed."""
    fs, root = files.filesystem(files.join(log, NAME))
    if not fs.exists(root):
        return
    known = set(committed(log))
    for folder in fs.glob(files.join(root, "checkpoint_*")):
        if fs.isdir(folder) and folder.rstrip("/").rsplit("/", 1)[-1] not in known:
            fs.rm(folder, recursive=True)


def committed(log: str) -> dict[str, dict[str, Any]]:
    """Names of the checkpoints that Ray Train has committed, with their figures, in the order of their steps."""
    fs, name = files.filesystem(files.join(log, NAME, SNAPSHOT))
    if not fs.exists(name):
        return {}
    held = json.loads(fs.cat_file(name))
    found = [*held["checkpoint_results"], *([held["latest_checkpoint_result"]] if held["checkpoint_results"] else [])]
    return {one["checkpoint_dir_name"]: one["metrics"] for one in sorted(found, key=lambda one: one["metrics"]["step"])}


def _merge(lines: Lines, measured: list[dict[str, Any]]) -> None:
    """Bring validations that ended after the last row of metrics into the file."""
    rows = lines.rows()
    known = {row["step"] for row in rows if "steps" not in row and "note" not in row}
    lines.replace([*rows, *(row for row in measured if row["step"] not in known)])


def _waiting(work: Callable[[], T], shortage: Shortage) -> T:
    """Call `work` on a thread and wait: on the main thread Ray Train takes Ctrl-C for itself and keeps it."""
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
        shortage.look()
