"""State that training goes on from: weights, their average, optimiser, step; safetensors and weights-only files.

The state file is written last and holds the digest of every other file: a checkpoint that was cut short or damaged is
known for what it is before anything of it is used.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from training.loop.optimizer import Optimizer
from training.loop.weight_averaging import Average

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.pt", "state.json"
AVERAGE = "average.safetensors"  # only where the run averages its weights; the model is made of it then


class Checkpoints(Config):
    """When checkpoints are made beside those of validations, and how they are kept; none of it changes the result."""

    steps: int | None = Field(None, ge=1, description="one every so many steps")
    minutes: float | None = Field(10.0, gt=0, description="one when the last is so old")
    keep: int = Field(2, ge=2, description="the best of them by the validation metric; the newest always")
    upload: Literal["auto", "now", "beside"] = Field(
        "auto", description="beside: training goes on while it is stored; auto: so where the run is on an object store"
    )
    ledger: bool = Field(False, description="record the rows of every step, by worker, in training/ledger")


@dataclass(frozen=True)
class Progress:
    """Where a run stands, and what it is: optimiser steps done and the plan (data and settings) they belong to.

    The random numbers of a step are a function of (seed, step, place in the batch), so that the seed stands for them.
    """

    step: int = 0
    plan: str = ""
    samples: int = 0  # rows of all global batches so far
    world: int = 1  # workers that made it; any number may go on
    batch_size: int = 0  # rows of a global batch
    total: int = 0  # steps of the whole run: with the step it is the learning-rate schedule
    seed: int = 0
    best: float | None = None  # of the validation metric
    stale: int = 0  # validations since that were no better

    def differences(self, other: "Progress") -> str:
        """Say what another checkpoint was made with that this run has not; empty when this run can go on from it."""
        fixed = ("batch_size", "total", "seed")
        mine, theirs = asdict(self), asdict(other)
        changed = ", ".join(
            f"{name} was {theirs[name]}, now {mine[name]}" for name in fixed if mine[name] != theirs[name]
        )
        if self.plan == other.plan and not changed:
            return ""
        return f"data or settings ({changed})" if changed else "data or settings"


class Keeper:
    """Who keeps checkpoints and metrics: Ray Train in a cluster; this one keeps nothing, for a run in one process."""

    def restore(self) -> Path | None:
        """Return the directory of the newest whole checkpoint, if any; called on every rank."""
        return None

    def begin(self, progress: Progress, before: Progress | None) -> None:
        """Hear where the run begins, and what it goes on from; called on every rank."""

    def log(self, row: dict[str, Any]) -> None:
        """Take one line of metrics; called on rank 0 only."""

    def note(self, step: int, text: str) -> None:
        """Take a sentence for the user; called on rank 0 only."""

    def save(
        self, metrics: dict[str, float], state: "State", *, durable: bool = False, milestone: bool = False
    ) -> None:
        """Take a checkpoint, stored before this returns where `durable`; called on every rank, in the same order."""

    def taken(self, step: int, rows: list[int]) -> None:
        """Take this rank's row numbers of a step that was done; called on every rank."""

    def set_aside(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Take this rank's rows of a batch that could not be trained on; called on every rank."""

    def leaving(self) -> bool:
        """Whether a node of the run has been told to go, once for each such notice; called on every rank."""
        return False


@dataclass(frozen=True)
class State:
    """What a checkpoint is made of."""

    module: nn.Module
    optimizer: Optimizer
    progress: Progress
    average: Average | None = None

    def write(self, folder: Path) -> None:
        """Write the files; the state, which makes them whole, last."""
        folder.mkdir(parents=True, exist_ok=True)
        still = frozen(self.module)
        trained = {name: tensor for name, tensor in self.module.state_dict().items() if name not in still}
        _save(trained, folder / WEIGHTS)
        if self.average:
            _save(self.average.state_dict(), folder / AVERAGE)
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)
        files = {path.name: _mark(path) for path in sorted(folder.iterdir()) if path.name != STATE}
        text = json.dumps({"progress": asdict(self.progress), "files": files}, indent=2)
        (folder / STATE).write_text(text, encoding="utf-8")

    def read(self, folder: Path) -> Progress:
        """Load weights, average and optimiser in place and return the progress.

        Raises UserError when the checkpoint is not whole, or belongs to another plan (other data or settings).
        """
        if wrong := damage(folder):
            raise UserError(f"checkpoint {folder}: {wrong}")
        found = progress(folder)
        if changed := self.progress.differences(found):
            raise UserError(f"checkpoint {folder}: made with other {changed}; give --fresh to start anew")
        _put(self.module, load_file(folder / WEIGHTS), folder)
        if self.average:
            self.average.load_state_dict(load_file(folder / AVERAGE))
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu"))
        return found


def progress(folder: Path) -> Progress:
    """Read where the run of a whole checkpoint stood."""
    return Progress(**json.loads((folder / STATE).read_text(encoding="utf-8"))["progress"])


def damage(folder: Path) -> str:
    """Say what a checkpoint lacks or which of its files is not as it was written; empty when it is whole."""
    try:
        files = json.loads((folder / STATE).read_text(encoding="utf-8"))["files"]
    except OSError:
        return f"has no {STATE}: it was not written to its end"
    except (ValueError, KeyError, TypeError):
        return f"{STATE} is not readable"
    for name, mark in files.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if _mark(path) != mark:
            return f"{name} is not as it was written"
    return ""


def _mark(path: Path) -> dict[str, Any]:
    """Size and digest of a file."""
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            found.update(chunk)
    return {"bytes": path.stat().st_size, "xxh3": found.hexdigest()}


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
