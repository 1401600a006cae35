"""Embeddings of every rank as one global batch, with the gradient that one big machine would give.

Each rank calls a loss on the gathered tensors and gets its *share*: shares sum to the loss on the global batch. The
gather sends every rank's gradient back to the rank that owns the row (summed), so that the sum over ranks of the
parameter gradients is exact for any split of the rows, equal or not. Averaging data parallelism (DDP) divides by the
world size W once more: multiply the share by W before backward.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_FIELDS = ("step", "columns", "ids", "dim", "dtype", "plan")


@dataclass(frozen=True)
class Gathered:
    """Columns of all ranks, [N_c, D] each, their ids [N_c], and the slice of each that is this rank's."""

    columns: dict[str, Tensor]
    ids: dict[str, Tensor]
    local: dict[str, slice]
    sizes: dict[str, list[int]]  # rows of each column by rank

    def starts(self, column: str) -> Tensor:
        """First global row of each rank in `column`, [W]."""
        sizes = torch.tensor(self.sizes[column], device=self.columns[column].device)
        return sizes.cumsum(0) - sizes


def world() -> tuple[int, int]:
    """Rank and world size; 0 and 1 without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _AllGather(torch.autograd.Function):
    """Rows [R, D] of every rank into [W * R, D]; backward returns to each rank the sum of its rows' gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        total = grad.contiguous()
        dist.all_reduce(total)
        rank, size = world()
        rows = total.shape[0] // size
        return total[rank * rows : (rank + 1) * rows]


def gather(
    columns: Mapping[str, Tensor], ids: Mapping[str, Tensor] | None = None, *, step: int = 0, plan: int = 0
) -> Gathered:
    """Gather named columns [n_c, D] (any n_c, other on every rank) and 64-bit ids {name: [n_c, K]} beside them.

    `ids` names belong to the column before the first dot ("positive.doc"). Four collectives a step whatever the
    number of columns: a header, the sizes, the ids, and one fused differentiable gather of all embeddings.

    Raises RuntimeError naming the rank and the field when ranks disagree on step, columns, width, dtype or plan,
    where a plain gather would hang or mix rows.
    """
    ids = ids or {}
    rank, size = world()
    if size == 1:
        local = {name: slice(0, len(rows)) for name, rows in columns.items()}
        return Gathered(dict(columns), dict(ids), local, {name: [len(rows)] for name, rows in columns.items()})
    counts = _exchange_header(columns, ids, step, plan)
    names = list(columns)
    embeddings = _fused(torch.cat([columns[name] for name in names]), [sum(row) for row in counts])
    gathered = {name: torch.cat(parts) for name, parts in _split(embeddings, names, counts).items()}
    local = {}
    for column, name in enumerate(names):
        start = sum(row[column] for row in counts[:rank])
        local[name] = slice(start, start + counts[rank][column])
    sizes = {name: [row[column] for row in counts] for column, name in enumerate(names)}
    return Gathered(gathered, _gather_ids(ids, names, counts), local, sizes)


def _exchange_header(columns: Mapping[str, Tensor], ids: Mapping[str, Tensor], step: int, plan: int) -> list[list[int]]:
    """Compare what ranks are about to gather; return rows by rank and column."""
    first = next(iter(columns.values()))
    fixed = [step, len(columns), len(ids), first.shape[1], _DTYPES.index(first.dtype), plan]
    head = torch.tensor(fixed, dtype=torch.int64, device=first.device)
    heads = [torch.empty_like(head) for _ in range(world()[1])]
    dist.all_gather(heads, head)
    rows = [[int(value) for value in other.tolist()] for other in heads]
    for rank, other in enumerate(rows):
        for field, expected, actual in zip(_FIELDS, rows[0], other, strict=True):
            if actual != expected:
                raise RuntimeError(
                    f"gather: rank {rank} has {field} {actual}, rank 0 has {expected}: ranks are out of step"
                )
    sizes = torch.tensor([len(value) for value in columns.values()], dtype=torch.int64, device=first.device)
    all_sizes = [torch.empty_like(sizes) for _ in range(world()[1])]
    dist.all_gather(all_sizes, sizes)
    return [[int(value) for value in other.tolist()] for other in all_sizes]


def _fused(rows: Tensor, sizes: list[int]) -> list[Tensor]:
    """Gather rows [n, D] of every rank, padded to the longest for the wire; returns one [n_r, D] a rank."""
    longest = max(sizes)
    padded = torch.nn.functional.pad(rows, (0, 0, 0, longest - rows.shape[0]))
    gathered: Tensor = _AllGather.apply(padded)  # type: ignore[no-untyped-call]
    return [gathered[rank * longest : rank * longest + size] for rank, size in enumerate(sizes)]


def _split(by_rank: list[Tensor], names: list[str], counts: list[list[int]]) -> dict[str, list[Tensor]]:
    """Cut every rank's fused rows back into its columns."""
    columns: dict[str, list[Tensor]] = {name: [] for name in names}
    for rows, sizes in zip(by_rank, counts, strict=True):
        for name, part in zip(names, torch.split(rows, sizes), strict=True):
            columns[name].append(part)
    return columns


def _gather_ids(ids: Mapping[str, Tensor], names: list[str], counts: list[list[int]]) -> dict[str, Tensor]:
    """Gather all ids in one collective: flattened, padded, cut and shaped back."""
    if not ids:
        return {}
    size = world()[1]
    shapes = {key: value.shape[1:] for key, value in ids.items()}
    column = {key: names.index(key.split(".")[0]) for key in ids}
    widths = {key: int(torch.Size(shape).numel()) for key, shape in shapes.items()}
    lengths = [[counts[r][column[key]] * widths[key] for key in ids] for r in range(size)]
    flat = torch.cat([value.reshape(-1) for value in ids.values()])
    longest = max(sum(row) for row in lengths)
    gathered = [torch.empty(longest, dtype=torch.int64, device=flat.device) for _ in range(size)]
    dist.all_gather(gathered, torch.nn.functional.pad(flat, (0, longest - flat.shape[0])))
    parts = [torch.split(rows[: sum(sizes)], sizes) for rows, sizes in zip(gathered, lengths, strict=True)]
    return {key: torch.cat([parts[r][at] for r in range(size)]).reshape(-1, *shapes[key]) for at, key in enumerate(ids)}
