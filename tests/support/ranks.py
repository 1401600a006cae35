"""Run a function on W real gloo processes and return what each gave: the one helper of all multi-process tests."""

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


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
        mp.spawn(_entry, args=(size, folder, function, args), nprocs=size)
        return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(size)]
