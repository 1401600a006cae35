"""State that training goes on from: weights, their average, optimiser, step; safetensors and weights-only files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import UserError
from training.average import Average
from training.optimizer import Optimizer

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.pt", "state.json"
AVERAGE = "average.safetensors"  # only where the run averages its weights; the model is made of it then


@dataclass(frozen=True)
class Progress:
    """Where a run stands: optimiser steps done, and the plan they belong to."""

    step: int = 0
    plan: str = ""


class Keeper(Protocol):
    """Who keeps checkpoints and metrics: Ray Train in a cluster, a directory under torchrun, memory in tests."""

    def restore(self) -> Path | None:
        """Return the directory of the newest committed checkpoint, if any."""

    def log(self, row: dict[str, Any]) -> None:
        """Take one line of metrics; called on rank 0 only."""

    def save(self, metrics: dict[str, float], state: "State") -> None:
        """Take a checkpoint; called on every rank, in the same order."""


@dataclass(frozen=True)
class State:
    """What a checkpoint is made of."""

    module: nn.Module
    optimizer: Optimizer
    progress: Progress
    average: Average | None = None

    def write(self, folder: Path) -> None:
        """Write the files; the state last."""
        folder.mkdir(parents=True, exist_ok=True)
        still = frozen(self.module)
        trained = {name: tensor for name, tensor in self.module.state_dict().items() if name not in still}
        _save(trained, folder / WEIGHTS)
        if self.average:
            _save(self.average.state_dict(), folder / AVERAGE)
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)
        (folder / STATE).write_text(json.dumps(asdict(self.progress)), encoding="utf-8")

    def read(self, folder: Path) -> Progress:
        """Load weights, average and optimiser in place and return the progress.

        Raises UserError when the checkpoint belongs to another plan (other data or settings).
        """
        progress = Progress(**json.loads((folder / STATE).read_text(encoding="utf-8")))
        if progress.plan != self.progress.plan:
            raise UserError(f"checkpoint {folder}: made with other data or settings; give --overwrite to start afresh")
        _put(self.module, load_file(folder / WEIGHTS), folder)
        if self.average:
            self.average.load_state_dict(load_file(folder / AVERAGE))
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu"))
        return progress


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def frozen(module: nn.Module) -> set[str]:
    """Names of parameters that do not train: checkpoints leave them out, the base has them."""
    return {name for name, value in module.named_parameters(remove_duplicate=False) if not value.requires_grad}


def _put(module: nn.Module, found: dict[str, Tensor], folder: Path) -> None:
    lacking = module.load_state_dict(found, strict=False)
    wrong = [*lacking.unexpected_keys, *(set(lacking.missing_keys) - frozen(module))]
    if wrong:
        raise UserError(f"checkpoint {folder}: is of another model; '{min(wrong)}' is in one of the two alone")


def load_weights(module: nn.Module, folder: Path, share: float = 1.0) -> None:
    """Load the model of a checkpoint, its average where it has one, into a module of the same shape.

    Below 1, the module gets `share` of it and the rest of what it held: interpolating the weights of a fine-tuned
    model with those it began with keeps much of what it knew before.
    Source: Wortsman et al. 2021 (WiSE-FT, arXiv 2109.01903).
    """
    found = load_file(folder / WEIGHTS)
    if (folder / AVERAGE).exists():
        found |= load_file(folder / AVERAGE)
    if share < 1.0:
        held = module.state_dict()
        found = {
            name: held[name].lerp(tensor, share) if tensor.is_floating_point() else tensor
            for name, tensor in found.items()
        }
    _put(module, found, folder)
