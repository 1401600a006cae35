"""A running average of the trained weights over steps: what a run validates and saves in place of the last weights.

    ema:  a_0 = w_start,  a_t = decay * a_(t-1) + (1 - decay) * w_t
    mean: a_t = mean of the weights after the steps so far
Both begin after the share `start` of the steps; until then the average is the weights as they are. Averages lie nearer
to the base and in flatter places than the last weights, and lose less of what the base knew.
Sources: Polyak and Juditsky 1992; Izmailov et al. 2018 (SWA, arXiv 1803.05407); Morales-Brotons et al. 2024 (EMA,
arXiv 2411.18704).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.config import Config


class EMA(Config):
    """Exponential moving average: it looks back over about 1 / (1 - decay) steps."""

    type: Literal["ema"] = "ema"
    decay: float = Field(0.99, gt=0, lt=1, description="what the average keeps of itself at each step")
    start: float = Field(
        0.0, ge=0, lt=1, description="share of the steps before the first that counts; 0: the base too"
    )

    def weight(self, count: int) -> float:
        """What the newest weights count, after `count` earlier ones."""
        return 1.0 - self.decay


class Mean(Config):
    """Mean of the weights after every step, all alike."""

    type: Literal["mean"] = "mean"
    start: float = Field(0.5, ge=0, lt=1, description="share of the steps before the first that counts")

    def weight(self, count: int) -> float:
        """What the newest weights count, after `count` earlier ones."""
        return 1.0 / (count + 1)


Averaging = Annotated[EMA | Mean, Field(discriminator="type")]


class Average:
    """The average of a module's trained weights in float32 at least, on their device.

    Every rank holds it: weights are the same on all of them, so it is too, without a collective. It is a function of
    the weights after each step, and of the step, alone; with its tensors in the checkpoint a resumed run is exact.
    """

    def __init__(self, module: nn.Module, config: EMA | Mean, total: int) -> None:
        self.config, self.first = config, int(config.start * total)
        self.trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.held = {name: _wide(value) for name, value in self.trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step`, which counts from 0."""
        count = step - self.first
        weight = 1.0 if count < 0 or (count == 0 and self.first > 0) else self.config.weight(count)
        for name, value in self.trained.items():
            self.held[name].lerp_(_wide(value), weight)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put the average in place of the weights; afterwards they are back, bit for bit."""
        weights = {name: value.detach().clone() for name, value in self.trained.items()}
        self._set(self.held)
        try:
            yield
        finally:
            self._set(weights)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self.trained.items():
            value.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors by the names of the module."""
        return dict(self.held)

    def load_state_dict(self, found: Mapping[str, Tensor]) -> None:
        """Go on from its tensors."""
        for name, value in self.held.items():
            value.copy_(found[name])


def _wide(value: Tensor) -> Tensor:
    """A copy in float32 at least: the steps of an average are smaller than half precision resolves."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
