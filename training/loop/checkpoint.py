"""Checkpoints: weights, their average, the states of the optimiser and the progress, as safetensors and JSON.

The state file is written last and holds the digest of every other file, so that an incomplete or damaged checkpoint is
detected before anything of it is loaded.
"""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import xxhash
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from training.loop.optimizer import Optimizer
from training.loop.tensor_files import TensorFiles, is_sharded, write_tensors
from training.loop.weight_averaging import WeightAverage
from training.losses.gather import world

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
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
    keep_finished: bool = Field(
        False, description="keep the checkpoints of a finished run too; by default its model alone is kept"
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

    def observe(self, figures: dict[str, float]) -> None:
        """Show figures of this rank alone, such as its memory; called on every rank when rank 0 logs a row."""

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

    @property
    def sharded(self) -> bool:
        """Whether every rank holds, and writes, rows of its own."""
        return any(is_sharded(value) for value in self.module.parameters())

    def write(self, folder: Path) -> None:
        """Write the files; the state file, without which the checkpoint is incomplete, comes last.

        Where ranks share the weights all of them call this, each with a folder of its own or the same one: a rank
        writes its rows, and rank 0, which is told the digests of all files, the state file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = [
            write_tensors(folder, WEIGHTS, trained_tensors(self.module)),
            write_tensors(folder, OPTIMIZER, self.optimizer.tensors()),
            *([write_tensors(folder, AVERAGE, self.average.state_dict())] if self.average else []),
        ]
        files = {path.name: _digest(path) for path in paths}
        if self.sharded:
            files = _of_all_ranks(files)
        if not self.sharded or world()[0] == 0:
            state = {"progress": asdict(self.progress), "optimizer": self.optimizer.counters(), "files": files}
            (folder / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")

    def read(self, folder: Path) -> Progress:
        """Load weights, average and optimiser in place and return the progress.

        Every rank calls this. Raises UserError when the checkpoint is damaged, or belongs to another plan (other data
        or settings).
        """
        if wrong := find_damage_together(folder):
            raise UserError(f"checkpoint {folder}: {wrong}")
        saved = read_progress(folder)
        if changed := self.progress.differences(saved):
            raise UserError(f"checkpoint {folder}: made with other {changed}; give --fresh to start anew")
        weights = TensorFiles(folder, WEIGHTS)
        for name, value in _expected(self.module, weights, folder).items():
            weights.copy_into(value, name)
        if self.average:
            self.average.load_files(TensorFiles(folder, AVERAGE))
        self.optimizer.load_tensors(TensorFiles(folder, OPTIMIZER))
        self.optimizer.load_counters(_read_state(folder)["optimizer"])
        return saved


def read_progress(folder: Path) -> Progress:
    """Read the progress that a complete checkpoint was saved at."""
    return Progress(**_read_state(folder)["progress"])


def _read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state


def find_damage_together(folder: Path) -> str:
    """The same description on every rank of what a checkpoint lacks; each looks at its share of the files, once."""
    rank, size = world()
    found = [find_damage(folder, rank, size)] * size
    if size > 1:
        dist.all_gather_object(found, found[rank])
    return next(filter(None, found), "")


def find_damage(folder: Path, part: int = 0, parts: int = 1) -> str:
    """Describe what a checkpoint lacks or which of its files has changed; empty when it is complete.

    With `parts`, file n is compared where n mod `parts` is `part`; that all are there is looked at in any case.
    """
    try:
        state = _read_state(folder)
        files = state["files"]
    except OSError:
        return f"has no {STATE}: it was not written to the end"
    except (ValueError, KeyError, TypeError):
        return f"{STATE} is not readable"
    if "optimizer" not in state:
        return "was written by an earlier version"
    for number, (name, mark) in enumerate(files.items()):
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if number % parts == part and _digest(path) != mark:
            return f"{name} is not as it was written"
    return ""


def _of_all_ranks(files: dict[str, Any]) -> dict[str, Any]:
    """The digests of the files of all ranks."""
    found: list[dict[str, Any]] = [{}] * world()[1]
    dist.all_gather_object(found, files)
    return {name: mark for some in found for name, mark in sorted(some.items())}


def _digest(path: Path) -> dict[str, Any]:
    """Size and hash of a file; one that this process has read, and that has not changed since, is not read again."""
    stat = path.stat()
    return {"bytes": stat.st_size, "xxh3": _hash(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)}


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, modified: int, inode: int) -> str:
    """Hash of the content of a file, remembered under what tells that it has changed."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            hasher.update(chunk)
    return hasher.hexdigest()


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that train, and buffers: what a checkpoint keeps, since the base model has the rest.

    A tensor of several names, as of tied weights, comes once.
    """
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if value.requires_grad or not isinstance(value, nn.Parameter):
            found.setdefault(id(value), (name, value))
    return {name: value.detach() for name, value in found.values()}


def _expected(module: nn.Module, files: TensorFiles, folder: Path) -> dict[str, Tensor]:
    """The tensors of a module that a checkpoint must have; raises UserError where it has others."""
    tensors = trained_tensors(module)
    if wrong := set(tensors) ^ set(files):
        raise UserError(f"checkpoint {folder}: belongs to another model; only one of the two has '{min(wrong)}'")
    return tensors


@torch.no_grad()
def load_weights(module: nn.Module, folder: Path, alpha: float = 1.0) -> None:
    """Load the weights of a checkpoint, their average where it has one, into a module that is not sharded.

    Tensors come one at a time, whatever the number of ranks that wrote them. Below 1, the module gets
    alpha * checkpoint + (1 - alpha) * its own weights: interpolating the weights of a fine-tuned model with those it
    began with keeps much of what it knew before. Source: Wortsman et al. 2021 (WiSE-FT, arXiv 2109.01903).
    """
    weights, averages = TensorFiles(folder, WEIGHTS), TensorFiles(folder, AVERAGE)
    for name, value in _expected(module, weights, folder).items():
        saved = (averages if name in averages else weights).whole(name).to(value)
        value.copy_(value.lerp(saved, alpha) if alpha < 1.0 and value.is_floating_point() else saved)
