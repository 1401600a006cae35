"""Speed of training, and how much of it is padding."""

import time
from collections.abc import Iterable

from pipeline.encoder import Encoder, Tokens
from training.gather import world


class Meter:
    """Pairs and tokens a second, and padding, since the last validation."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.start, self.steps, self.pairs, self.tokens = time.monotonic(), 0, 0, 0
        self.padding = 0.0

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
        }
