"""Resources of a run: how many workers, and CPUs and GPUs of each worker and of asynchronous validations."""

import time
from dataclasses import dataclass
from typing import Any

from pipeline.core import ray_session
from pipeline.core.errors import UserError
from training.run.config import ElasticWorkers, TrainingConfig

COMPOSING_FROM = 4  # CPUs a GPU, from which on one of them is left for composing epochs


@dataclass(frozen=True)
class Resources:
    """Number of workers, fixed or elastic, and the resources of each."""

    min_workers: int
    max_workers: int
    per_worker: dict[str, float]
    on_gpu: bool
    validation_task: dict[str, Any]  # Ray options of the task that validates asynchronously
    spare_cpus: int = 0  # that neither workers nor validations use, for composing epochs ahead

    @property
    def count(self) -> int | tuple[int, int]:
        """Number of workers as Ray Train takes it."""
        return self.min_workers if self.min_workers == self.max_workers else (self.min_workers, self.max_workers)

    def __str__(self) -> str:
        span = (
            f"{self.max_workers}"
            if self.min_workers == self.max_workers
            else f"{self.min_workers} to {self.max_workers}"
        )
        return f"{span} worker(s) with {self.per_worker['CPU']:g} CPU each{' and a GPU' if self.on_gpu else ''}"


def plan_resources(config: TrainingConfig) -> Resources:
    """Divide the cluster among workers; raises UserError where its nodes have no room for them."""
    cluster = ray_session.cluster()
    gpus, cpus = cluster.gpus, int(cluster.cpus)
    workers = config.workers or (gpus if gpus else min(2, max(1, cpus)))
    min_workers, max_workers = (workers.min, workers.max) if isinstance(workers, ElasticWorkers) else (workers, workers)
    if min_workers > max(cluster.room(1.0), gpus):
        raise UserError(f"workers {min_workers}: the cluster has {cluster}; give at most one worker each CPU or GPU")
    on_gpu = gpus >= min_workers
    validating = 1 if config.validation.asynchronous and cpus > max_workers else 0
    each_gpus = 1.0 if on_gpu else 0.0
    composing = max_workers if on_gpu and cluster.cpus_for(each_gpus) >= COMPOSING_FROM * max_workers else 0
    aside = validating + composing
    share = float(max(1, cluster.cpus_for(each_gpus, aside) // max_workers))
    each = {"CPU": cluster.worker_cpus(max_workers, share, each_gpus)} | ({"GPU": 1.0} if on_gpu else {})
    check = {"num_cpus": validating, "num_gpus": 1 if on_gpu and gpus > max_workers else 0}
    spare = int(cluster.cpus - max_workers * each["CPU"] - validating)
    return Resources(min_workers, max_workers, each, on_gpu, check, max(0, spare))


class CapacityWatch:
    """Notices when the cluster has been too small for the run for too long."""

    def __init__(self, resources: Resources, limit_s: float) -> None:
        self.resources, self.limit_s, self.since, self.checked = resources, limit_s, 0.0, 0.0

    def check(self) -> None:
        """Raise UserError when nodes that are needed have not come back in time; checks every few seconds only."""
        import ray

        now = time.monotonic()
        if now - self.checked < 3.0:
            return
        self.checked = now
        available = ray.cluster_resources()
        short = [
            name
            for name, amount in self.resources.per_worker.items()
            if available.get(name, 0) < amount * self.resources.min_workers
        ]
        self.since = 0.0 if not short else self.since or now
        if short and now - self.since > self.limit_s:
            has = ", ".join(f"{available.get(name, 0):g} {name}" for name in self.resources.per_worker)
            each = ", ".join(f"{amount:g} {name}" for name, amount in self.resources.per_worker.items())
            raise UserError(
                f"workers {self.resources.min_workers}: the cluster has {has} since {self.limit_s:g} s, wanted "
                f"{each} each; the same command goes on when nodes are back, or now with fewer workers"
            )
