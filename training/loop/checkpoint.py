"""Checkpoints: weights, their average, optimiser and progress, as safetensors and weights-only files.

The state file is written last and holds the digest of every other file, so that an incomplete or damaged checkpoint is
detected before anything of it is loaded.
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
from training.loop.weight_averaging import WeightAverage

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.pt", "state.json"
AVERAGE = "average.safetensors"  # only where the run averages its weights; the model is loaded from it then


class CheckpointConfig(Config):
    """When checkpoints are saved besides those of validations, and how; none of it changes the result."""

    steps: int | None = Field(None, ge=1, description="save one every so many steps")
    minutes: float | None = Field(10.0, gt=0, description="save one when the last is this old")
    keep: int = Field(2, ge=2, description="keep this many, the best by the validation metric; the newest always")
    upload: Literal["auto", "sync", "async"] = Field(
        "auto",
        description="async: training goes on while it is stored; auto: async where the run is on an object store",
    )
    ledger: bool = Field(False, description="record the rows of every step, by worker, in training/ledger")


@dataclass(frozen=True)
class Progress:
    """How far a run is, and which run it is: optimiser steps done, and the plan (data and settings) they belong to.

    The random numbers of a step are a function of (seed, step, index in the batch), so that saving the seed is enough.
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
        """Describe what is different about an earlier run; empty when this run can continue from its checkpoint."""
        fixed = ("batch_size", "total", "seed")
        current, earlier = asdict(self), asdict(other)
        changed = ", ".join(
            f"{name} was {earlier[name]}, now {current[name]}" for name in fixed if current[name] != earlier[name]
        )
        if self.plan == other.plan and not changed:
            return ""
        return f"data or settings ({changed})" if changed else "data or settings"


class RunStore:
    """Where a run stores checkpoints and metrics; this one stores nothing, RayRunStore does it with Ray Train."""

    def restore(self) -> Path | None:
        """Return the directory of the newest complete checkpoint, if any; called on every rank."""
        return None

    def begin(self, progress: Progress, before: Progress | None) -> None:
        """Called on every rank with the progress at the start, and the progress of the checkpoint that it continues."""

    def log(self, row: dict[str, Any]) -> None:
        """Store a row of metrics; called on rank 0 only."""

    def note(self, step: int, text: str) -> None:
        """Store a message for the user; called on rank 0 only."""

    def save(
        self, metrics: dict[str, float], state: "TrainingState", *, durable: bool = False, milestone: bool = False
    ) -> None:
        """Store a checkpoint, before this returns where `durable`; called on every rank, in the same order."""

    def record_rows(self, step: int, rows: list[int]) -> None:
        """Record this rank's row numbers of a finished step; called on every rank."""

    def save_bad_rows(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Store this rank's rows of a batch whose gradient was not finite; called on every rank."""

    def preempted(self) -> bool:
        """Whether a node of the run is about to be preempted, once for each notice; called on every rank."""
        return False


@dataclass(frozen=True)
class TrainingState:
    """Everything that a checkpoint holds."""

    module: nn.Module
    optimizer: Optimizer
    progress: Progress
    average: WeightAverage | None = None

    def write(self, folder: Path) -> None:
        """Write the files; the state file, without which the checkpoint is incomplete, comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        frozen = frozen_parameters(self.module)
        trained = {name: tensor for name, tensor in self.module.state_dict().items() if name not in frozen}
        _save(trained, folder / WEIGHTS)
        if self.average:
            _save(self.average.state_dict(), folder / AVERAGE)
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)
        files = {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.name != STATE}
        text = json.dumps({"progress": asdict(self.progress), "files": files}, indent=2)
        (folder / STATE).write_text(text, encoding="utf-8")

    def read(self, folder: Path) -> Progress:
        """Load weights, average and optimiser in place and return the progress.

        Raises UserError when the checkpoint is damaged, or belongs to another plan (other data or settings).
        """
        if wrong := find_damage(folder):
            raise UserError(f"checkpoint {folder}: {wrong}")
        saved = read_progress(folder)
        if changed := self.progress.differences(saved):
            raise UserError(f"checkpoint {folder}: made with other {changed}; give --fresh to start anew")
        _load_into(self.module, load_file(folder / WEIGHTS), folder)
        if self.average:
            self.average.load_state_dict(load_file(folder / AVERAGE))
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu"))
        return saved


def read_progress(folder: Path) -> Progress:
    """Read the progress that a complete checkpoint was saved at."""
    return Progress(**json.loads((folder / STATE).read_text(encoding="utf-8"))["progress"])


def find_damage(folder: Path) -> str:
    """Describe what a checkpoint lacks or which of its files has changed; empty when it is complete."""
    try:
        files = json.loads((folder / STATE).read_text(encoding="utf-8"))["files"]
    except OSError:
        return f"has no {STATE}: it was not written to the end"
    except (ValueError, KeyError, TypeError):
        return f"{STATE} is not readable"
    for name, mark in files.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if _digest(path) != mark:
            return f"{name} is not as it was written"
    return ""


def _digest(path: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            hasher.update(chunk)
    return {"bytes": path.stat().st_size, "xxh3": hasher.hexdigest()}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def frozen_parameters(module: nn.Module) -> set[str]:
    """Names of parameters that do not train: checkpoints leave them out, since the base model has them."""
    return {name for name, value in module.named_parameters(remove_duplicate=False) if not value.requires_grad}


def _load_into(module: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    lacking = module.load_state_dict(weights, strict=False)
    wrong = [*lacking.unexpected_keys, *(set(lacking.missing_keys) - frozen_parameters(module))]
    if wrong:
        raise UserError(f"checkpoint {folder}: belongs to another model; only one of the two has '{min(wrong)}'")


def load_weights(module: nn.Module, folder: Path, alpha: float = 1.0) -> None:
    """Load the weights of a checkpoint, their average where it has one, into a module of the same shape.

    Below 1, the module gets alpha * checkpoint + (1 - alpha) * its own weights: interpolating the weights of a
    fine-tuned model with those it began with keeps much of what it knew before.
    Source: Wortsman et al. 2021 (WiSE-FT, arXiv 2109.01903).
    """
    weights = load_file(folder / WEIGHTS)
    if (folder / AVERAGE).exists():
        weights |= load_file(folder / AVERAGE)
    if alpha < 1.0:
        base = module.state_dict()
        weights = {
            name: base[name].lerp(tensor, alpha) if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
    _load_into(module, weights, folder)
