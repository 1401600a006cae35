"""Tensors by name as safetensors: in one file, or in one file a rank with its rows of the sharded ones.

    weights.safetensors                     whole tensors
    weights-00001-of-00004.safetensors      rows of rank 1; the files of all ranks, one after the other, are the tensor
A rank holds the rows that `torch.chunk` along dimension 0 gives it, as FSDP2 shards parameters; what is not sharded
stands in the file of rank 0. A reader asks for rows, and so any number of ranks goes on from files of any other number.
torch's own distributed checkpoints (DCP) can do that too, but their metadata is a pickle, which may run code when it is
read; a safetensors header says all that is needed here, names, shapes and precisions, and cannot.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

SUFFIX = ".safetensors"


def part_name(name: str, rank: int, size: int) -> str:
    """Name of a rank's file of a sharded set that is called `name`, such as weights.safetensors."""
    return f"{name.removesuffix(SUFFIX)}-{rank:05d}-of-{size:05d}{SUFFIX}"


def is_sharded(value: Tensor) -> bool:
    """Whether this rank holds only some rows of a tensor."""
    return isinstance(value, DTensor)


def local_rows(value: Tensor) -> Tensor:
    """The rows of a tensor that this rank holds: all of them where it is not sharded. Shares memory with the tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def row_range(rows: int, rank: int, size: int) -> tuple[int, int]:
    """First row and end of the part of a rank, as `torch.chunk` cuts `rows` rows into at most `size` parts."""
    chunk = -(-rows // size)
    return min(rank * chunk, rows), min((rank + 1) * chunk, rows)


def write_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors, or this rank's rows of them where some are sharded; returns the path of the file."""
    meshes = [value.device_mesh for value in tensors.values() if isinstance(value, DTensor)]
    if not meshes:
        return _save(folder / name, tensors)
    rank, size = meshes[0].get_local_rank(), meshes[0].size()
    mine = {key: local_rows(value) for key, value in tensors.items() if rank == 0 or is_sharded(value)}
    return _save(folder / part_name(name, rank, size), mine)


def _save(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    return path


class TensorFiles:
    """Reads the tensors that `write_tensors` wrote, one at a time: whole, or the rows that a rank needs."""

    def __init__(self, folder: Path, name: str) -> None:
        pattern = re.compile(re.escape(name.removesuffix(SUFFIX)) + r"(-\d{5}-of-\d{5})?" + re.escape(SUFFIX))
        self.files: list[Any] = [
            safe_open(path, framework="pt") for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name)
        ]
        self.parts: dict[str, list[int]] = {}  # numbers of the files that hold rows of a tensor, in order
        for number, file in enumerate(self.files):
            for key in file.keys():  # noqa: SIM118  safe_open has no iterator
                self.parts.setdefault(key, []).append(number)

    def __contains__(self, name: str) -> bool:
        return name in self.parts

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def whole(self, name: str) -> Tensor:
        """A whole tensor, in main memory."""
        pieces: list[Tensor] = [self.files[number].get_tensor(name) for number in self.parts[name]]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def rows(self, name: str, first: int, end: int) -> Tensor:
        """Rows `first` to before `end` of a tensor, of which nothing else is read."""
        pieces, start = [], 0
        for number in self.parts[name]:
            piece = self.files[number].get_slice(name)
            rows = piece.get_shape()[0]
            low, high = (min(max(row - start, 0), rows) for row in (first, end))
            pieces.append(piece[low:high])
            start += rows
        return torch.cat(pieces)

    def rows_of(self, name: str, value: Tensor) -> Tensor:
        """What of a tensor belongs where this rank holds `value`: its rows of a sharded tensor, else the whole."""
        if not isinstance(value, DTensor) or not self.files[self.parts[name][0]].get_slice(name).get_shape():
            return self.whole(name)
        return self.rows(name, *row_range(value.shape[0], value.device_mesh.get_local_rank(), value.device_mesh.size()))

    @torch.no_grad()
    def copy_into(self, value: Tensor, name: str) -> None:
        """Copy a tensor of the files into one of the same shape, in place."""
        local_rows(value).copy_(self.rows_of(name, value))

    def beside(self, name: str, value: Tensor) -> Tensor:
        """A tensor of the files on the device of `value`, and sharded as `value` is, unless it is a single number."""
        rows = self.rows_of(name, value).to(value.device)
        if not isinstance(value, DTensor) or not rows.ndim:
            return rows
        layout = value.device_mesh, value.placements
        return DTensor.from_local(rows, *layout, shape=value.shape, stride=value.stride())
