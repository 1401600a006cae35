"""The interface of a module that follows pooling: vectors [B, D] into vectors [B, E], read and written by folder."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class VectorModule(nn.Module, ABC):
    """A module of a model directory after pooling; kinds are listed in `registry.py`.

    A kind reads every key of its settings or refuses it by name, and writes what it read.
    """

    @classmethod
    @abstractmethod
    def read(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """Make the module of its settings and of the weights in its folder; raises UserError for what it cannot be."""

    @abstractmethod
    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors [B, D] float32 into vectors [B, E]."""

    def settings(self) -> dict[str, Any]:
        """Settings as a new folder's `config.json` holds them."""
        return {}

    def width(self, width: int) -> int:
        """Width E of what comes out where D is `width`."""
        return width

    def write(self, folder: Path) -> None:
        """Write the weights, if there are any, as float32 safetensors."""
        from safetensors.torch import save_file

        weights = {name: value.detach().float().cpu().contiguous() for name, value in self.state_dict().items()}
        if weights:
            save_file(weights, folder / WEIGHT_FILES[0])


def take_keys(config: Mapping[str, Any], known: Iterable[str], kind: str) -> dict[str, Any]:
    """Return settings all of whose keys are known; raises UserError with the full names of others."""
    names = list(known)
    unknown = [key for key in config if key not in names]
    if unknown:
        raise UserError(f"{kind}: {', '.join(unknown)} has no meaning here; known are {', '.join(names)}")
    return dict(config)


def require_plain_names(config: Mapping[str, Any], kind: str) -> None:
    """Raise UserError for a module that reads or writes anything but a text's vector."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UserError(f"{kind}: {key} {config[key]!r} is not supported, sentence_embedding is")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a folder, safetensors first; a `.bin` may hold tensors alone (`weights_only`).

    Raises UserError where there are none and where a file holds anything else.
    """
    from safetensors.torch import load_file

    safe, binary = (folder / name for name in WEIGHT_FILES)
    try:
        if safe.exists():
            return dict(load_file(safe))
        if binary.exists():
            weights: dict[str, Tensor] = torch.load(binary, map_location="cpu", weights_only=True)
            return weights
    except Exception as error:
        raise UserError(f"{folder}: its weights cannot be read: {' '.join(str(error).split())[:200]}") from error
    raise UserError(f"{folder}: has neither {' nor '.join(WEIGHT_FILES)}")


def load_weights(module: nn.Module, folder: Path, kind: str) -> None:
    """Put the weights of a folder into a module; raises UserError for missing, further and differently shaped ones."""
    try:
        module.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise UserError(f"{kind}: its weights do not fit: {' '.join(str(error).split())[:200]}") from error
