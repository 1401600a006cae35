"""Throughput of training: pairs and tokens a second, padding, time spent waiting for data, and the slowest rank."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.encoder.encoder import Encoder
from pipeline.encoder.tokenizer import Tokens
from training.losses.gather import world

T = TypeVar("T")


class RankTimer:
    """Time that each rank takes to reach the gather of a step, and a clock that is the same on all ranks.

    Both are exchanged with the figures of a step, in the small collective that a step makes anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = world()
        self.clock = 0.0  # seconds since the first step: the mean over ranks, the same on all of them
        self.busy, self.steps = [0.0] * self.size, 0
        self.start = self.last = time.monotonic()
        self.rank_s = 0.0

    def begin(self) -> None:
        """Start a step."""
        self.start = time.monotonic()

    def mark_gather(self) -> None:
        """Record that this rank has embedded its rows: from here on it waits for the others."""
        if self.size > 1 and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.rank_s = time.monotonic() - self.start

    def sum_over_ranks(self, shares: dict[str, Tensor]) -> dict[str, float]:
        """Sum the shares of all ranks in one small collective, together with their times."""
        now = time.monotonic()
        times = [now - self.last] + [self.rank_s if rank == self.rank else 0.0 for rank in range(self.size)]
        self.last = now
        values = torch.stack([value.float() for value in shares.values()])
        values = torch.cat([values, torch.tensor(times, device=values.device)])
        if self.size > 1:
            dist.all_reduce(values)
        totals: list[float] = values.tolist()
        self.clock += totals[len(shares)] / self.size
        self.busy = [seconds + more for seconds, more in zip(self.busy, totals[len(shares) + 1 :], strict=True)]
        self.steps += 1
        return dict(zip(shares, totals, strict=False))

    def of_this_rank(self) -> dict[str, float]:
        """Seconds of its last step to the gather, and the most bytes that it has had, of its GPU or else of memory."""
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else resident_bytes()
        return {"rank_step_s": self.rank_s, "rank_memory_bytes": float(peak)}

    def read(self) -> dict[str, float]:
        """Seconds a step to the gather since the last call: the slowest rank, its time, the mean of all ranks."""
        steps, busy = max(1, self.steps), self.busy
        self.busy, self.steps = [0.0] * self.size, 0
        if self.size == 1:
            return {}
        slowest = max(range(self.size), key=busy.__getitem__)
        return {
            "slowest_rank": slowest,
            "slowest_rank_s": busy[slowest] / steps,
            "mean_rank_s": sum(busy) / steps / self.size,
        }


def resident_bytes() -> int:
    """The most bytes of main memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class ThroughputMeter:
    """Pairs and tokens a second, padding, and the share of time spent waiting for data, since the last validation."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.reset()

    def reset(self) -> None:
        """Start counting again."""
        self.start, self.steps, self.pairs, self.tokens = time.monotonic(), 0, 0, 0
        self.padding = self.waiting = 0.0

    def timed(self, items: Iterable[T]) -> Iterator[T]:
        """Pass items on and add up the time spent waiting for each but the first, which nothing can prepare."""
        source, first = iter(items), True
        while True:
            start = time.monotonic()
            item = next(source, None)
            if item is None:
                return
            if first:
                first = False
                self.reset()
            else:
                self.waiting += time.monotonic() - start
            yield item

    def add(self, pairs: int, tokens: Tokens) -> None:
        """Count a step: pairs of the global batch, and the token ids of this rank's texts."""
        lengths = [len(row) for row in tokens]
        self.steps += 1
        self.pairs += pairs
        self.tokens += sum(lengths) * world()[1]
        self.padding = self.encoder.padding_share(lengths)

    def read(self) -> dict[str, float]:
        """Figures since the last reset."""
        seconds = max(1e-9, time.monotonic() - self.start)
        return {
            "seconds_per_step": seconds / max(1, self.steps),
            "pairs_per_s": self.pairs / seconds,
            "tokens_per_s": self.tokens / seconds,
            "padding": self.padding,
            "wait": min(1.0, self.waiting / seconds),
        }
