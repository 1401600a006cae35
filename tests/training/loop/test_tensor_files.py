"""Tensors on disk: whole or by the rows of ranks, and read by any number of ranks; tied weights are kept once."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from tests.support.ranks import run_ranks
from training.loop.checkpoint import Progress, TrainingState, load_weights
from training.loop.optimizer import Optimizer
from training.loop.tensor_files import TensorFiles, local_rows, part_name, row_range, write_tensors

SHAPES = {"even": (8, 3), "uneven": (7, 2), "few": (2, 5), "one row": (1,), "nothing": (0, 4)}


def full() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return made | {"half": torch.randn(5, 2, generator=generator).bfloat16(), "number": torch.tensor(3.5)}


def sharded() -> dict[str, torch.Tensor]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return {name: distribute_tensor(value, mesh, [Shard(0)]) if value.ndim else value for name, value in full().items()}


def write(folder: str) -> list[list[int]]:
    """Write this rank's rows; returns the row ranges that it holds."""
    place, values = Path(folder), sharded()
    write_tensors(place, "some.safetensors", values)
    rank, size = dist.get_rank(), dist.get_world_size()
    ranges = {name: row_range(len(value), rank, size) for name, value in full().items() if value.ndim}
    for name, (first, end) in ranges.items():
        assert torch.equal(local_rows(values[name]), full()[name][first:end]), name
    return [list(span) for span in ranges.values()]


def read(folder: str) -> None:
    """Read this rank's rows into tensors of zeros, and beside them."""
    files, values, wanted = TensorFiles(Path(folder), "some.safetensors"), sharded(), sharded()
    for name, value in values.items():
        local_rows(value).zero_()
        files.copy_into(value, name)
        assert torch.equal(local_rows(value), local_rows(wanted[name])), name
        beside = files.beside(name, value)
        assert beside.shape == value.shape and torch.equal(local_rows(beside), local_rows(wanted[name])), name
    assert set(files) == set(values)


@pytest.mark.parametrize("writers", [1, 2, 3, 4])
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path: Path, writers: int):
    if writers == 1:
        write_tensors(tmp_path, "some.safetensors", full())
    else:
        run_ranks(writers, write, str(tmp_path))
        assert len(list(tmp_path.iterdir())) == writers
        assert "number" not in TensorFiles(tmp_path, part_name("some.safetensors", 1, writers))
    (tmp_path / "someother.safetensors").write_bytes(b"of another set")
    files = TensorFiles(tmp_path, "some.safetensors")
    for name, value in full().items():
        assert torch.equal(files.whole(name), value) and files.whole(name).dtype == value.dtype, name
    for readers in (2, 4):
        run_ranks(readers, read, str(tmp_path))


class Tied(torch.nn.Module):
    """A table that is also the last layer, as T5 and BERT have it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(4, 3)
        self.last = torch.nn.Linear(3, 4, bias=False)
        self.last.weight = self.table.weight
        self.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)


def test_tied_weights_are_kept_once(tmp_path: Path):
    def state(module: torch.nn.Module) -> TrainingState:
        optimizer = Optimizer(module, torch.float32, weight_decay=0.0, max_grad_norm=1.0, max_bad_steps=0)
        return TrainingState(module, optimizer, Progress(0, "plan"))

    torch.manual_seed(0)
    trained, resumed, final = Tied(), Tied(), Tied()
    first = state(trained)
    trained.last(trained.table(torch.tensor([1, 2]))).square().sum().backward()
    first.optimizer.step(0, 0.1)
    first.write(tmp_path)
    assert set(TensorFiles(tmp_path, "weights.safetensors")) == {"table.weight"}
    second = state(resumed)
    second.read(tmp_path)
    load_weights(final, tmp_path)
    for module in (resumed, final):
        assert module.last.weight is module.table.weight and torch.equal(module.last.weight, trained.last.weight)
    moments = [one.optimizer.adamw.state[one.module.table.weight]["exp_avg"] for one in (first, second)]
    assert moments[0].abs().sum() > 0 and torch.equal(*moments)
