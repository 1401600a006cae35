"""What the cluster gives a run: how many workers, what each gets, and what a validation beside them gets."""

import time
from dataclasses import dataclass
from typing import Any

from pipeline.core import ray_session
from pipeline.core.errors import UserError
from training.run.config import Elastic, TrainConfig


@dataclass(frozen=True)
class Resources:
    """Workers, from `least` to `most`, and the share of each."""

    least: int
    most: int
    each: dict[str, float]
    on_gpu: bool
    check: dict[str, Any]  # options of Ray's task that validates beside training

    @property
    def count(self) -> int | tuple[int, int]:
        """As Ray Train takes it."""
        return self.least if self.least == self.most else (self.least, self.most)

    def __str__(self) -> str:
        span = f"{self.most}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{span} worker(s) with {self.each['CPU']:g} CPU each{' and a GPU' if self.on_gpu else ''}"


def resources(config: TrainConfig) -> Resources:
    """Divide the cluster; raises UserError where it is too small for the workers wanted."""
    gpus, cpus = ray_session.gpus(), ray_session.cpus()
    wanted = config.workers or (gpus if gpus else min(2, cpus))
    least, most = (wanted.min, wanted.max) if isinstance(wanted, Elastic) else (wanted, wanted)
    if least > max(cpus, gpus):
        raise UserError(f"workers {least}: the cluster has {cpus} CPUs and {gpus} GPUs; give at most one worker each")
    on_gpu = gpus >= least
    aside = 1 if config.validation.asynchronous and cpus > most else 0
    each = {"CPU": ray_session.cpus_per_actor(most, float(max(1, (cpus - aside) // most)))} | (
        {"GPU": 1.0} if on_gpu else {}
    )
    check = {"num_cpus": aside, "num_gpus": 1 if on_gpu and gpus > most else 0}
    return Resources(least, most, each, on_gpu, check)


class Shortage:
    """Sees when the cluster has been too small for the fewest workers for too long."""

    def __init__(self, given: Resources, limit_s: float) -> None:
        self.given, self.limit_s, self.since, self.asked = given, limit_s, 0.0, 0.0

    def look(self) -> None:
        """Raise UserError when nodes that are needed have not come back in time; asks every few seconds only."""
        import ray

        now = time.monotonic()
        if now - self.asked < 3.0:
            return
        self.asked = now
        held = ray.cluster_resources()
        short = [name for name, amount in self.given.each.items() if held.get(name, 0) < amount * self.given.least]
        self.since = 0.0 if not short else self.since or now
        if short and now - self.since > self.limit_s:
            has = ", ".join(f"{held.get(name, 0):g} {name}" for name in self.given.each)
            raise UserError(
                f"workers {self.given.least}: the cluster has {has} since {self.limit_s:g} s, wanted "
                f"{', '.join(f'{amount:g} {name}' for name, amount in self.given.each.items())} each; the same command "
                "goes on when nodes are back, or now with fewer workers"
            )
