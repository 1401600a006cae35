"""Run a function on W real gloo processes and return what each gave: the one helper of all multi-process tests.

Ranks are forks of one server that has imported the libraries and computed nothing, so that a rank starts in
milliseconds; a process that is spawned takes seconds for its imports alone.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = ["torch.distributed", "transformers", "training.loop.trainer", "training.losses.any_loss", "numpy.testing"]
multiprocessing.set_forkserver_preload(PRELOADED)


def _entry(rank: int, size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    try:
        torch.save(function(*args), Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_ranks(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call function(*args) on `size` ranks; errors of any rank are raised here."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_entry, args=(size, folder, function, args), nprocs=size, start_method="forkserver")
        return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(size)]
