"""A pool of Ray actors that works through a list of items: its size, its share of the machine, its results."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.core import ray_session
from pipeline.core.config import user_cause
from pipeline.core.errors import UserError

CPUS_PER_ACTOR = 4  # more threads than that do not pay for short texts
THREADS_IN_PROCESS = 8  # of the only worker, where no session is up
CALLS_PER_GPU_ACTOR = 3  # one is computed while the next is read and tokenised, and the last is written


@dataclass(frozen=True)
class Pool:
    """The number of actors, and what each of them may use."""

    size: int
    num_cpus: float
    num_gpus: float
    threads: int
    max_size: int = 0  # actors that the pool may grow to where the cluster grows
    calls: int = 1  # at a time in one actor, for workers that overlap

    @classmethod
    def plan(
        cls,
        num_actors: int | None,
        num_items: int,
        *,
        on_gpus: bool = True,
        max_actors: int | None = None,
        threads: int | None = None,
    ) -> "Pool":
        """Divide the cluster: an actor a GPU, else one for each four CPUs, unless `num_actors`; at most one an item.

        One logical CPU is left to the other tasks of Ray Data, since a pool keeps its actors to the end. Where no
        session is up, it is one worker in this process.
        """
        if not ray_session.is_up():
            return cls(1, 1.0, 0.0, threads or min(ray_session.cpus(), THREADS_IN_PROCESS), 1)
        cluster = ray_session.cluster()
        gpus = cluster.gpus if on_gpus else 0
        size = num_actors or gpus or max(1, int(cluster.cpus) // CPUS_PER_ACTOR)
        size = max(1, min(size, num_items))
        gpu_share = min(1.0, gpus / size)
        usable = cluster.cpus_for(gpu_share)
        available = max(cluster.cpus_for(gpu_share, aside=1.0), usable / 2)
        share = cluster.worker_cpus(size, max(0.01, int(100 * available / size) / 100), gpu_share)
        ceiling = max(size, min(max_actors or size, num_items))
        threads = threads or max(1, int(cluster.worker_cpus(size, max(1, usable // size), gpu_share)))
        return cls(size, share, gpu_share, threads, ceiling, CALLS_PER_GPU_ACTOR if gpus else 1)


class Worker:
    """An actor of a pool; `work` takes and returns values that JSON can hold.

    Where `overlaps` is True several threads call `work` at the same time on a GPU; the worker then locks what only one
    may do.
    """

    overlaps = False

    def work(self, item: Any) -> Any:
        """Process one item."""
        raise NotImplementedError

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Process the item in a row of a Ray dataset.

        An error that the user can fix, such as a full disk, is returned as a value: Ray drops the cause of an error.
        """
        try:
            return {"result": json.dumps(self.work(json.loads(row["item"]))), "error": ""}
        except (UserError, OSError) as error:
            if (message := user_cause(error)) is None:
                raise
            return {"result": "null", "error": message}


def limit_threads(threads: int) -> None:
    """Limit torch to `threads` threads and to the number of cores; tokenizers then use several threads or one."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    torch.set_num_threads(max(1, min(threads, os.cpu_count() or 1)))


def stream(items: Sequence[Any], worker: type[Worker], settings: dict[str, Any], pool: Pool) -> Iterator[Any]:
    """Process items on a pool and yield their results; the items of an actor that was lost are processed again.

    Where no session is up, one worker in this process does it.

    Raises UserError for the first item that ended in one, or in an error of the operating system.
    """
    rows = [{"item": json.dumps(item)} for item in items]
    calls = pool.calls if worker.overlaps and pool.calls > 1 else None
    if not ray_session.is_up():
        here = worker(**settings)
        for row in rows:
            yield _result(**here(row))
        return
    import ray

    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        worker,
        fn_constructor_kwargs=settings,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.size,
            max_size=max(pool.size, pool.max_size),
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=calls is not None,
        ),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.select(["result", "error"]).to_pylist():
            yield _result(**row)


def _result(result: str, error: str) -> Any:
    if error:
        raise UserError(error)
    return json.loads(result)


def stream_tables(
    rows: Sequence[dict[str, str]],
    worker: Callable[..., Callable[[pa.Table], pa.Table]],
    settings: dict[str, Any],
    pool: Pool,
) -> Iterator[pa.Table]:
    """Process rows on a pool whose actors take a table of one row and return one; yields these in the order of rows."""
    if not ray_session.is_up():
        here = worker(**settings)
        yield from (here(pa.Table.from_pylist([row])) for row in rows)
        return
    import ray

    dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
        worker,
        fn_constructor_kwargs=settings,
        compute=ray.data.ActorPoolStrategy(size=pool.size),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
    )
    yield from dataset.iter_batches(batch_size=1, batch_format="pyarrow")
