"""Ray Train around the workers: it places them, keeps their checkpoints and restarts them when one dies."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar

from pipeline import engine
from pipeline.artifact import Artifact
from pipeline.console import say
from pipeline.errors import UserError
from training.fit.config import TrainConfig
from training.fit.worker import train_worker
from training.keeper import Follow, MetricsFile

T = TypeVar("T")


def fit(config: TrainConfig, places: dict[str, str], plan: str) -> tuple[Path, list[dict[str, Any]]]:
    """Run Ray Train; returns the directory of the best checkpoint and the validation figures."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    workers, per_worker, on_gpu = resources(config)
    say(f"train: {workers} worker(s) with {per_worker['CPU']} CPU each{' and a GPU' if on_gpu else ''}")
    metric = config.validation.measured(Artifact.open(places["data"], "build"))
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "places": places,
            "plan": plan,
            "cpus": per_worker["CPU"],
        },
        torch_config=TorchConfig(timeout_s=600),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=on_gpu, resources_per_worker=per_worker),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=places["log"],
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute=metric if config.loop.validations else None,
                checkpoint_score_order="max",
            ),
        ),
    )
    with Follow(places["metrics"], metric):
        result = _beside(trainer.fit)
    kept = result.best_checkpoints or []
    if not kept:
        raise UserError(f"train: no checkpoint in {places['log']}; the run ended before its first validation")
    best, figures = max(kept, key=lambda pair: (pair[1].get(metric, -1.0), pair[1]["step"]))
    kind = f"best by {metric} {figures[metric]:.4f}" if metric in figures else "last"
    say(f"train: checkpoint of step {figures['step']}, the {kind}")
    lines = MetricsFile(places["metrics"]).rows()
    return Path(best.to_directory()), [row for row in lines if metric in row]


def _beside(work: Callable[[], T]) -> T:
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


def resources(config: TrainConfig) -> tuple[int, dict[str, float], bool]:
    """Workers, what each gets, and whether that is a GPU."""
    gpus, cpus = engine.gpus(), engine.cpus()
    workers = config.workers or (gpus if gpus else min(2, cpus))
    if workers > max(cpus, gpus):
        raise UserError(f"workers {workers}: the cluster has {cpus} CPUs and {gpus} GPUs; give at most one worker each")
    return workers, {"CPU": float(max(1, cpus // workers))} | ({"GPU": 1} if gpus >= workers else {}), gpus >= workers
