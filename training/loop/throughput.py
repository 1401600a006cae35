"""Speed of training: pairs and tokens a second, padding, waiting for data, and which rank is slow."""

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


class Pace:
    """How long each rank takes to reach the gather of a step, and a clock that all ranks agree on.

    Both travel with the figures of a step in the one small collective that it makes anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = world()
        self.clock = 0.0  # seconds since the first step: the mean over ranks, the same number on all of them
        self.busy, self.steps = [0.0] * self.size, 0
        self.start = self.last = time.monotonic()
        self.own = 0.0

    def begin(self) -> None:
        """Start a step on this rank."""
        self.start = time.monotonic()

    def arrived(self) -> None:
        """Note that this rank has embedded its rows: from here on it waits for the others."""
        if self.size > 1 and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.own = time.monotonic() - self.start

    def summed(self, shares: dict[str, Tensor]) -> dict[str, float]:
        """Sum shares over ranks in one small collective, with every rank's time beside them."""
        now = time.monotonic()
        times = [now - self.last] + [self.own if rank == self.rank else 0.0 for rank in range(self.size)]
        self.last = now
        values = torch.stack([value.float() for value in shares.values()])
        values = torch.cat([values, torch.tensor(times, device=values.device)])
        if self.size > 1:
            dist.all_reduce(values)
        found: list[float] = values.tolist()
        self.clock += found[len(shares)] / self.size
        self.busy = [held + more for held, more in zip(self.busy, found[len(shares) + 1 :], strict=True)]
        self.steps += 1
        return dict(zip(shares, found, strict=False))

    def read(self) -> dict[str, float]:
        """Seconds to the gather since the last reading, a step: the slowest rank, its time, the mean of all."""
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


class Meter:
    """Pairs and tokens a second, padding and the share of time spent waiting for data, since the last validation."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.start, self.steps, self.pairs, self.tokens = time.monotonic(), 0, 0, 0
        self.padding = self.waiting = 0.0

    def waited(self, items: Iterable[T]) -> Iterator[T]:
        """Pass items on and count the time that each but the first was waited for: nothing can prepare that one."""
        source, first = iter(items), True
        while True:
            asked = time.monotonic()
            item = next(source, None)
            if item is None:
                return
            if first:
                first = False
                self.reset()
            else:
                self.waiting += time.monotonic() - asked
            yield item

    def add(self, pairs: int, columns: Iterable[Tokens]) -> None:
        """Count a step: pairs of the global batch, and this rank's tokens of its columns."""
        lengths = [len(row) for column in columns for row in column]
        self.steps += 1
        self.pairs += pairs
        self.tokens += sum(lengths) * world()[1]
        self.padding = self.encoder.padding_share(lengths)

    def read(self) -> dict[str, float]:
        """Return the figures so far."""
        seconds = max(1e-9, time.monotonic() - self.start)
        return {
            "seconds_per_step": seconds / max(1, self.steps),
            "pairs_per_s": self.pairs / seconds,
            "tokens_per_s": self.tokens / seconds,
            "padding": self.padding,
            "wait": min(1.0, self.waiting / seconds),
        }
