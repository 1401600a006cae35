"""Shuffle through files: tasks write rows hashed into buckets, later tasks read one bucket of all of them.

One Arrow IPC file a writing task holds one record batch a bucket, so that a bucket is read by seeking, the number of
files is the number of tasks, and memory is bounded by one bucket. Names depend on the input alone: a task that runs
again overwrites its own files, and a task that has left its mark is not run again.
"""

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.storage.counts import Counts
from pipeline.storage.files import filesystem, join, open_arrow, read_json, write_json
from pipeline.text.columns import hash64_column, key_prefixes
from pipeline.text.normalize import hash64

Task = Callable[[int], Counts]
Ended = tuple[int, str | None]  # index of a task, and what the user can mend
Call = Callable[[int], Ended]
RETRIES = 10  # of a task whose worker died


@dataclass(frozen=True)
class Shuffle:
    """A directory of staged tables, each cut into the same number of buckets."""

    path: str
    buckets: int

    def write(self, name: str, part: str, table: pa.Table, by: str) -> None:
        """Stage rows under `name`, bucketed by the `numbers` of column `by`; nothing is written for no rows."""
        if table.num_rows == 0:
            return
        fs, file_name = filesystem(join(self.path, name, f"{part}.arrow"))
        fs.makedirs(posixpath.dirname(file_name), exist_ok=True)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        partial_name = f"{file_name}.partial"
        with fs.open(partial_name, "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
            for rows in self._cut(table, by):
                writer.write_batch(rows)
        fs.mv(partial_name, file_name)

    def read(self, name: str, bucket: int, schema: pa.Schema) -> pa.Table:
        """Read one bucket of everything staged under `name`, in the order of the parts' names.

        `schema` may name some of the columns only: the others are not unpacked.
        """
        fs, folder = filesystem(join(self.path, name))
        tables = [schema.empty_table()]
        for file_name in sorted(fs.glob(join(folder, "*.arrow"))) if fs.exists(folder) else []:
            with open_arrow(fs, file_name) as file:
                tables.append(_batch(file, bucket, schema))
        return pa.concat_tables(tables)

    def part(self, name: str, part: str, schema: pa.Schema) -> pa.Table | None:
        """Read what one task staged under `name` in the only bucket; None where it staged nothing."""
        fs, file_name = filesystem(join(self.path, name, f"{part}.arrow"))
        if not fs.exists(file_name):
            return None
        with open_arrow(fs, file_name) as file:
            return _batch(file, 0, schema)

    def has(self, name: str) -> bool:
        """Whether anything is staged under `name`."""
        fs, folder = filesystem(join(self.path, name))
        return bool(fs.exists(folder))

    def _cut(self, table: pa.Table, by: str) -> list[pa.RecordBatch]:
        if self.buckets == 1:
            return [_one_batch(table)]
        bucket = bucket_hashes(table.column(by)) % np.uint64(self.buckets)
        bucket = bucket.astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        ends = np.cumsum(np.bincount(bucket, minlength=self.buckets))
        rows = _one_batch(table.take(order))
        return [rows.slice(start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def bucket_hashes(names: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """64-bit numbers of keys [N], by which they are bucketed; numbers and keys of texts stand for themselves.

    The seed differs from that of the splits, so that buckets do not follow them.
    """
    if pa.types.is_uint64(names.type):
        found: npt.NDArray[np.uint64] = names.to_numpy()
        return found
    if pa.types.is_fixed_size_binary(names.type):
        return key_prefixes(names)
    return hash64_column(names, "bucket")


def bucket_of(value: str, buckets: int) -> int:
    """Bucket of a key."""
    return hash64("bucket", value) % buckets


def _batch(file: Any, bucket: int, schema: pa.Schema) -> pa.Table:
    """Columns of `schema` of one bucket of a file, the others left packed."""
    reader = pa.ipc.open_file(file)
    if len(schema) < len(reader.schema):
        places = [reader.schema.get_field_index(name) for name in schema.names]
        reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=places))
    return pa.Table.from_batches([reader.get_batch(bucket)]).select(schema.names)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def run_tasks(
    name: str, count: int, task: Task, marks: str, on_done: Callable[[int], None], *, streamed: bool = False
) -> list[Counts]:
    """Run task(0) ... task(count - 1) on Ray and return the tallies in that order.

    A task leaves its tally under `marks` when it is through and a later run takes it from there: a killed job goes
    on. Raises UserError for the first task that met one. `done` hears of each task as it ends. `streamed` goes through
    Ray Data, whose executor takes a second to use more than one CPU; what follows in short steps are tasks.
    """
    call = partial(_call, name=name, task=task, marks=marks)
    counts: dict[int, Counts] = {}
    for index, error in (_streamed if streamed else _tasks)(call, count):
        if error:
            raise UserError(error)
        counts[index] = Counts.from_json(read_json(_mark(marks, name, index)))
        on_done(index)
    return [counts[index] for index in range(count)]


def _streamed(call: Call, count: int) -> Iterator[Ended]:
    """Call with 0 ... count - 1 as blocks of a dataset."""
    import ray

    def block(batch: pa.Table) -> pa.Table:
        index, error = call(batch["id"][0].as_py())
        return pa.table({"id": pa.array([index], pa.int64()), "error": pa.array([error], pa.string())})

    rows = ray.data.range(count, override_num_blocks=count).map_batches(block, batch_size=None, batch_format="pyarrow")
    for row in rows.iter_rows():
        yield row["id"], row["error"]


def _tasks(call: Call, count: int) -> Iterator[Ended]:
    """Call with 0 ... count - 1 as tasks; one whose worker died is done again."""
    import ray

    remote, held = ray.remote(max_retries=RETRIES)(_remote), ray.put(call)
    waiting = [remote.remote(held, index) for index in range(count)]
    try:
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            yield from ray.get(ready)
    finally:
        for one in waiting:
            ray.cancel(one)


def _remote(call: Call, index: int) -> Ended:
    return call(index)


def _call(index: int, name: str, task: Task, marks: str) -> Ended:
    """Run one task; what the user can mend comes back as a value, so that the engine logs no traceback for it."""
    fs, mark = filesystem(_mark(marks, name, index))
    error = None
    if not fs.exists(mark):
        try:
            write_json(_mark(marks, name, index), task(index).to_json())
        except UserError as problem:
            error = str(problem)
        except OSError as problem:
            if not problem.strerror:
                raise
            error = f"{problem.filename or marks}: {problem.strerror}"
    return index, error


def _mark(marks: str, name: str, index: int) -> str:
    return join(marks, f"{name}-{index:06d}.json")


def ignore_progress(_: Any) -> None:
    """Hear of an ended task and say nothing."""
