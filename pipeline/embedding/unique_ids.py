"""A check that every row of some shards has an id and that no id occurs twice, in bounded memory."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.storage import shards
from pipeline.storage.shards import Shard
from pipeline.text.normalize import hash64

_IDS_A_PASS = 1 << 24  # ids whose hashes are compared at a time


def check_ids(plan: Sequence[Shard], id_column: str) -> None:
    """Raise UserError for ids that are missing or occur more than once, naming the first."""
    passes = sum(shard.rows for shard in plan) // _IDS_A_PASS + 1
    for part in range(passes):
        hashes = np.concatenate(
            [_id_hashes(shard, id_column, part, passes) for shard in plan] or [np.empty(0, np.uint64)]
        )
        values, counts = np.unique(hashes, return_counts=True)
        if (counts > 1).any():
            _refuse_twins(plan, id_column, set(values[counts > 1].tolist()))


def _ids(shard: Shard, id_column: str) -> list[str]:
    column = shards.string_column(shards.read(shard, [id_column]), id_column, shard.path, numbers=True)
    if column.null_count:
        first = shard.start + pc.index(column.is_null(), True).as_py() + 1
        raise UserError(
            f"{shard.path}: {column.null_count} rows have no '{id_column}', first row {first}; give every row an id"
        )
    ids: list[str] = column.to_pylist()
    return ids


def _id_hashes(shard: Shard, id_column: str, part: int, passes: int) -> npt.NDArray[np.uint64]:
    hashes = np.array([hash64(name) for name in _ids(shard, id_column)], np.uint64)
    return hashes[hashes % np.uint64(passes) == part] if passes > 1 else hashes


def _refuse_twins(plan: Sequence[Shard], id_column: str, suspects: set[int]) -> None:
    seen = Counter(name for shard in plan for name in _ids(shard, id_column) if hash64(name) in suspects)
    twins = [name for name, count in seen.items() if count > 1]
    if twins:
        examples = ", ".join(f"'{name}'" for name in twins[:3])
        raise UserError(
            f"{plan[0].path}: {len(twins)} ids of '{id_column}' occur more than once ({examples}); ids must be unique"
        )
