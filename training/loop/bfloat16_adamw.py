"""AdamW whose states are held in bfloat16 between steps: 4 bytes a weight in place of 8.

The states of one parameter at a time come to float32, torch's own update runs on them, and they go back rounded up or
down at random, so that the mean is right. Rounded to the nearest, the second moment could never fall: a step takes a
thousandth of it away, and bfloat16 tells only a 128th apart. Sources: Gupta et al. 2015 (stochastic rounding, arXiv
1502.02551); DeepSeek-AI 2024 (moments in bfloat16, arXiv 2412.19437).
torchao has optimisers with 8-bit states. They need a compiler where they run, and their states are tensors of a class
of their own, in blocks of 256 values, which another number of ranks could not read from a checkpoint.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from training.loop.tensor_files import local_rows


class BFloat16AdamW(torch.optim.Optimizer):
    """AdamW for parameters in float32; `exp_avg` and `exp_avg_sq` of each are bfloat16, sharded as it is.

    The random numbers of a step follow from its number alone: ranks that hold a parameter whole round it alike, and a
    run that goes on from a checkpoint is exact.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step by the gradients that there are."""
        assert closure is None, "gradients are computed before the step"
        trained = [(group, value) for group in self.param_groups for value in group["params"] if value.grad is not None]
        steps = [self._state(value)["step"] for _, value in trained]
        random = torch.Generator(trained[0][1].device).manual_seed(int(steps[0])) if trained else None
        for group, value in trained:
            self._update(group, value, self._state(value), random)

    def _state(self, value: Tensor) -> dict[str, Tensor]:
        """The states of a parameter, zeros before its first step."""
        state: dict[str, Tensor] = self.state[value]
        if not state:
            state["step"] = torch.zeros((), device=value.device)
            state |= {name: torch.zeros_like(value, dtype=torch.bfloat16) for name in ("exp_avg", "exp_avg_sq")}
        return state

    @staticmethod
    def _update(group: dict[str, Any], value: Tensor, state: dict[str, Tensor], random: torch.Generator | None) -> None:
        assert value.grad is not None
        rows, grad = local_rows(value), local_rows(value.grad)
        states = [local_rows(state[name]) for name in ("exp_avg", "exp_avg_sq")]
        mean, square = (part.to(rows.dtype) for part in states)
        beta1, beta2 = group["betas"]
        settings = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        adamw(
            [rows], [grad], [mean], [square], [], [state["step"]],
            fused=True, amsgrad=False, beta1=beta1, beta2=beta2, maximize=False, **settings,
        )  # fmt: skip
        for part, exact in zip(states, (mean, square), strict=True):
            part.copy_(round_at_random(exact, random))


def round_at_random(values: Tensor, random: torch.Generator | None = None) -> Tensor:
    """Round finite values to bfloat16, up or down with the probability that makes the mean right."""
    noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=random)
    bits = noise.add_(values.float().view(torch.int32))  # bfloat16 is the upper half of the bits of float32
    return bits.bitwise_and_(-(1 << 16)).view(torch.float32).to(torch.bfloat16)
