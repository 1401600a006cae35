"""AdamW on clipped gradients, with loss scaling in float16; a gradient that is not finite is skipped."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from training.loop import gradients
from training.loop.bfloat16_adamw import BFloat16AdamW
from training.loop.tensor_files import TensorFiles, is_sharded

States = Literal["float32", "bfloat16"]
ADAMW: dict[States, Callable[[Any], torch.optim.Optimizer]] = {  # by the precision of what it keeps between steps
    "float32": lambda groups: torch.optim.AdamW(groups, fused=True),
    "bfloat16": BFloat16AdamW,
}


class Optimizer:
    """AdamW over the trained parameters of a module, with the learning rate given at each step.

    In float16 the loss is scaled up before backward, so that small gradients are not lost, and the scale follows what
    the gradients bear (Micikevicius et al. 2018, arXiv 1710.03740); other precisions need none.
    """

    def __init__(
        self,
        module: nn.Module,
        precision: torch.dtype,
        *,
        weight_decay: float,
        max_grad_norm: float,
        max_bad_steps: int,
        states: States = "float32",
    ) -> None:
        self.named = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.parameters = list(self.named.values())
        self.max_grad_norm, self.max_bad_steps, self.bad_steps = max_grad_norm, max_bad_steps, 0
        self.adamw = ADAMW[states](_groups(self.parameters, weight_decay))
        device = self.parameters[0].device.type
        self.unscaled = False  # while a batch is computed again without loss scaling
        self.scaler = torch.amp.GradScaler(device, enabled=precision == torch.float16)

    def zero_grad(self) -> None:
        """Clear the gradients of the last step."""
        self.adamw.zero_grad(set_to_none=True)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Scale the loss for backward."""
        if self.unscaled:
            return loss
        scaled: Tensor = self.scaler.scale(loss)
        return scaled

    def step(self, step: int, rate: float, backward: Callable[[], object] | None = None) -> dict[str, float]:
        """Take one step at a learning rate; one whose gradient is not finite is skipped and counted.

        In float16 the scale may be the reason: then only the scale falls, and nothing is counted. `backward` computes
        the gradients of the same batch again, to see whether they are finite without the scale; where it is not given,
        a step counts once the scale cannot fall further. Raises UserError after too many counted steps.
        """
        self.scaler.unscale_(self.adamw)
        norm = gradients.clip(self.parameters, self.max_grad_norm)
        scale = self.scaler.get_scale()
        if math.isfinite(norm):
            for group in self.adamw.param_groups:
                group["lr"] = rate
            self.scaler.step(self.adamw)
            self.scaler.update()
        elif scale > 1.0 and backward and not self._finite_unscaled(backward):
            self.scaler.update(scale)  # the scale is not the reason, and stays
            self._count_bad(step)
        else:
            self.scaler.update()
            if scale <= 1.0:
                self._count_bad(step)
        return {"grad_norm": norm, "learning_rate": rate} | ({"scale": scale} if self.scaler.is_enabled() else {})

    def _finite_unscaled(self, backward: Callable[[], object]) -> bool:
        """Whether the gradients of the batch are finite without loss scaling."""
        self.unscaled = True
        try:
            backward()
        finally:
            self.unscaled = False
        return math.isfinite(gradients.total_norm(self.parameters))

    def _count_bad(self, step: int) -> None:
        self.bad_steps += 1
        if self.bad_steps > self.max_bad_steps:
            raise UserError(
                f"step {step}: the gradient is not finite, {self.bad_steps} times now; "
                "lower loop.learning_rate or set loop.precision float32"
            )

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that the next step depends on: `exp_avg/NAME` and so on of each parameter that has had a step."""
        states = self.adamw.state
        return {
            f"{key}/{name}": state for name, value in self.named.items() for key, state in states.get(value, {}).items()
        }

    def load_tensors(self, files: TensorFiles) -> None:
        """Continue from saved tensors, of which each rank reads those that belong to its rows."""
        for key in files:
            kind, _, name = key.partition("/")
            self.adamw.state[self.named[name]][kind] = files.beside(key, self.named[name])

    def counters(self) -> dict[str, Any]:
        """Numbers that the next step depends on."""
        return {"scaler": self.scaler.state_dict(), "bad_steps": self.bad_steps}

    def load_counters(self, state: dict[str, Any]) -> None:
        """Continue from saved numbers."""
        self.scaler.load_state_dict(state["scaler"])
        self.bad_steps = int(state["bad_steps"])


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: no weight decay on biases, norms and learnable scalars.

    What ranks share stands apart from what each holds whole, since one call of the optimiser takes no mixture.
    """
    shared = [p for p in parameters if is_sharded(p)]
    if 0 < len(shared) < len(parameters):
        return _groups(shared, weight_decay) + _groups([p for p in parameters if not is_sharded(p)], weight_decay)
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
