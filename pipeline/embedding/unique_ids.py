"""A check that every row of some shards has an id and that no id occurs twice, in bounded memory.

Tasks hash the ids of some shards each. Few hashes are compared in one place; many are staged in buckets by hash, and
each bucket is compared by a task of its own, so that no process holds more than a bucket.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import tasks
from pipeline.core.errors import UserError
from pipeline.storage import shards
from pipeline.storage.files import remove_folder
from pipeline.storage.shards import Shard
from pipeline.storage.shuffle import Shuffle
from pipeline.text.columns import hash64_column

_IDS_A_BUCKET = 1 << 22  # ids whose hashes are compared at a time
_IDS_A_TASK = 1 << 20
_HASHES = pa.schema([("hash", pa.uint64())])
Hashes = npt.NDArray[np.uint64]
Columns = tuple[str, str | None]  # ids, and where passages start in their documents


def check_ids(plan: Sequence[Shard], id_column: str, staging: str, start_column: str | None = None) -> None:
    """Raise UserError for ids that are missing or occur more than once, naming the first.

    `staging` is a folder for the hashes of many ids, which is removed again. Of passages, whose `start_column` holds
    where they start, only those are looked at that start their document.
    """
    groups, columns = list(_groups(plan)), (id_column, start_column)
    buckets = -(-sum(shard.rows for shard in plan) // _IDS_A_BUCKET)
    if buckets <= 1:
        hashes = [np.empty(0, np.uint64), *tasks.results(_hash_ids, [(group, columns) for group in groups])]
        repeated = _repeated(np.concatenate(hashes))
    else:
        shuffle = Shuffle(staging, buckets)
        remove_folder(staging)
        list(tasks.results(_stage_ids, [(shuffle, number, group, columns) for number, group in enumerate(groups)]))
        repeated = np.concatenate(list(tasks.results(_repeated_in, [(shuffle, bucket) for bucket in range(buckets)])))
        remove_folder(staging)
    if len(repeated):
        _refuse_twins(plan, groups, columns, repeated)


def _groups(plan: Sequence[Shard]) -> Iterator[list[Shard]]:
    """Shards in order, each list with about `_IDS_A_TASK` rows."""
    group: list[Shard] = []
    for shard in plan:
        group.append(shard)
        if sum(item.rows for item in group) >= _IDS_A_TASK:
            yield group
            group = []
    if group:
        yield group


def _ids(shard: Shard, columns: Columns) -> pa.ChunkedArray:
    id_column, start_column = columns
    rows = shards.read(shard, [name for name in columns if name])
    if start_column:
        rows = rows.filter(pc.equal(rows[start_column], 0))
    column = shards.string_column(rows, id_column, shard.path, numbers=True)
    if column.null_count:
        first = shard.start + pc.index(column.is_null(), True).as_py() + 1
        raise UserError(
            f"{shard.path}: {column.null_count} rows have no '{id_column}', first row {first}; give every row an id"
        )
    return column


def _hash_ids(group: list[Shard], columns: Columns) -> Hashes:
    return np.concatenate([hash64_column(_ids(shard, columns)) for shard in group])


def _stage_ids(shuffle: Shuffle, number: int, group: list[Shard], columns: Columns) -> None:
    shuffle.write("ids", f"{number:06d}", pa.table([_hash_ids(group, columns)], schema=_HASHES), by="hash")


def _repeated_in(shuffle: Shuffle, bucket: int) -> Hashes:
    return _repeated(shuffle.read("ids", bucket, _HASHES)["hash"].to_numpy())


def _repeated(hashes: Hashes) -> Hashes:
    """The hashes that occur more than once."""
    values, counts = np.unique(hashes, return_counts=True)
    repeated: Hashes = values[counts > 1]
    return repeated


def _find_ids(group: list[Shard], columns: Columns, suspects: Hashes) -> list[str]:
    """The ids of some shards that have one of some hashes."""
    names: list[str] = []
    for shard in group:
        ids = _ids(shard, columns)
        names += ids.filter(pa.array(np.isin(hash64_column(ids), suspects))).to_pylist()
    return names


def _refuse_twins(plan: Sequence[Shard], groups: list[list[Shard]], columns: Columns, suspects: Hashes) -> None:
    seen = Counter[str]()
    for names in tasks.results(_find_ids, [(group, columns, suspects) for group in groups]):
        seen.update(names)
    twins = sorted(name for name, count in seen.items() if count > 1)
    if twins:
        examples = ", ".join(f"'{name}'" for name in twins[:3])
        raise UserError(
            f"{plan[0].path}: {len(twins)} ids of '{columns[0]}' occur more than once ({examples}); ids must be unique"
        )
