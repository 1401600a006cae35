"""Weight averaging: a run validates and saves a running average of its weights in place of the last ones.

    ema:  a_0 = w_start,  a_t = decay * a_(t-1) + (1 - decay) * w_t
    mean: a_t = mean of the weights after the steps so far
Both begin after the share `start` of the steps; until then the average is the weights as they are. Averages lie nearer
to the base and in flatter places than the last weights, and forget less of what the base knew.
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
from training.loop.tensor_files import TensorFiles, local_rows


class EMA(Config):
    """Exponential moving average of the weights, over about 1 / (1 - decay) steps."""

    type: Literal["ema"] = "ema"
    decay: float = Field(0.99, gt=0, lt=1, description="share of the average that stays at each step")
    start: float = Field(0.0, ge=0, lt=1, description="share of the steps before averaging begins; 0: with the base")

    def weight(self, count: int) -> float:
        """Weight of the newest weights in the average, after `count` earlier ones."""
        return 1.0 - self.decay


class Mean(Config):
    """Plain mean of the weights after every step (SWA)."""

    type: Literal["mean"] = "mean"
    start: float = Field(0.5, ge=0, lt=1, description="share of the steps before averaging begins")

    def weight(self, count: int) -> float:
        """Weight of the newest weights in the average, after `count` earlier ones."""
        return 1.0 / (count + 1)


Averaging = Annotated[EMA | Mean, Field(discriminator="type")]


class WeightAverage:
    """The average of the trained weights of a module, in float32 at least, on their device.

    Every rank computes it from its own weights, or rows of them, without a collective. It depends on
    the weights after each step, and on the step, alone; with its tensors in the checkpoint a resumed run is exact.
    """

    def __init__(self, module: nn.Module, config: EMA | Mean, total: int) -> None:
        self.config, self.first_step = config, int(config.start * total)
        self.trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.values = {name: _at_least_float32(value) for name, value in self.trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after optimiser step `step`, which counts from 0."""
        count = step - self.first_step
        weight = 1.0 if count < 0 or (count == 0 and self.first_step > 0) else self.config.weight(count)
        for name, value in self.trained.items():
            local_rows(self.values[name]).lerp_(_at_least_float32(local_rows(value)), weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the weights by the average; afterwards they are back, bit for bit."""
        weights = {name: value.detach().clone() for name, value in self.trained.items()}
        self._set(self.values)
        try:
            yield
        finally:
            self._set(weights)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self.trained.items():
            local_rows(value).copy_(local_rows(values[name]))

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of the average, by parameter name."""
        return dict(self.values)

    def load_files(self, files: TensorFiles) -> None:
        """Continue from saved tensors."""
        for name, value in self.values.items():
            files.copy_into(value, name)


def _at_least_float32(value: Tensor) -> Tensor:
    """Copy a tensor in float32 at least: the changes of an average are smaller than half precision resolves."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
