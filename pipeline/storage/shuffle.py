"""Shuffle through files: tasks write rows hashed into buckets, later tasks read one bucket of all of them.

One Arrow IPC file a writing task holds one record batch a bucket, so that a bucket is read by seeking, the number of
files is the number of tasks, and memory is bounded by one bucket. File names depend on the input alone: a task that
runs again overwrites its own files, and a finished task leaves a mark file and is not run again.
"""

import json
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core import ray_session, tasks
from pipeline.core.errors import UserError
from pipeline.storage.counts import Counts
from pipeline.storage.files import filesystem, join, open_arrow, read_json, write_json
from pipeline.text.columns import hash64_column, key_prefixes
from pipeline.text.normalize import hash64

Task = Callable[[int], Counts]
TaskResult = tuple[int, str | None, Any]  # index of a task, message of an error that the user can fix, counts as JSON
Call = Callable[[int], TaskResult]


@dataclass(frozen=True)
class Shuffle:
    """A directory of staged tables, each cut into the same number of buckets."""

    path: str
    buckets: int

    def write(self, name: str, part: str, table: pa.Table, by: str) -> None:
        """Stage rows under `name`, bucketed by column `by` (`bucket_hashes`); nothing is written for no rows."""
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
        ends = np.cumsum(np.bincount(bucket, minlength=self.buckets))
        sorted_already = bool((bucket[1:] >= bucket[:-1]).all())
        rows = _one_batch(table if sorted_already else table.take(np.argsort(bucket, kind="stable")))
        return [rows.slice(start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def bucket_hashes(names: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return 64-bit hashes of keys [N], which decide their buckets; numbers and keys of texts are used as they are.

    The seed differs from that of the splits, so that buckets do not follow them.
    """
    if pa.types.is_uint64(names.type):
        hashes: npt.NDArray[np.uint64] = names.to_numpy()
        return hashes
    if pa.types.is_fixed_size_binary(names.type):
        return key_prefixes(names)
    return hash64_column(names, "bucket")


def bucket_of(value: str, buckets: int) -> int:
    """Return the bucket of a key."""
    return hash64("bucket", value) % buckets


def _batch(file: Any, bucket: int, schema: pa.Schema) -> pa.Table:
    """Read the columns of `schema` of one bucket of a file; the others are not decompressed."""
    reader = pa.ipc.open_file(file)
    if len(schema) < len(reader.schema):
        fields = [reader.schema.get_field_index(name) for name in schema.names]
        reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))
    return pa.Table.from_batches([reader.get_batch(bucket)]).select(schema.names)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def run_tasks(
    name: str,
    count: int,
    task: Task,
    marks: str,
    on_done: Callable[[int], None],
    *,
    streamed: bool = False,
    at_once: int | None = None,
) -> list[Counts]:
    """Run task(0) ... task(count - 1) and return their counts in that order; on Ray where a session is up.

    A finished task leaves its counts under `marks`, where a later run finds them, so that a killed job resumes.
    `on_done` is called with the index of each task that ends. `streamed` runs them through Ray Data instead of as plain
    tasks; its executor needs a second to use more than one CPU, which is too long for short steps. `at_once` bounds how
    many plain tasks run at a time. Raises UserError for the first task that ended in one.
    """
    call = partial(_call, name=name, task=task, marks=marks)
    counts: dict[int, Counts] = {}
    streams = streamed and ray_session.is_up()
    for index, error, content in _streamed(call, count) if streams else _tasks(call, count, at_once):
        if error:
            raise UserError(error)
        counts[index] = Counts.from_json(content)
        on_done(index)
    return [counts[index] for index in range(count)]


def _streamed(call: Call, count: int) -> Iterator[TaskResult]:
    """Call with 0 ... count - 1 as blocks of a Ray dataset."""
    import ray

    def block(batch: pa.Table) -> pa.Table:
        return pa.table({"result": [json.dumps(call(batch["id"][0].as_py()))]})

    rows = ray.data.range(count, override_num_blocks=count).map_batches(block, batch_size=None, batch_format="pyarrow")
    for row in rows.iter_rows():
        index, error, content = json.loads(row["result"])
        yield index, error, content


def _tasks(call: Call, count: int, at_once: int | None) -> Iterator[TaskResult]:
    """Call with 0 ... count - 1 as tasks."""
    shared_call = tasks.put(call)
    return tasks.results(_remote, [(shared_call, index) for index in range(count)], at_once)


def _remote(call: Call, index: int) -> TaskResult:
    return call(index)


def _call(index: int, name: str, task: Task, marks: str) -> TaskResult:
    """Run one task, or read what an earlier run of it has counted, and return its counts, which need not be read again.

    An error that the user can fix is returned as a value, so that Ray logs no traceback for it.
    """
    mark = _mark(marks, name, index)
    fs, file_name = filesystem(mark)
    if fs.exists(file_name):
        return index, None, read_json(mark)
    try:
        content = task(index).to_json()
        write_json(mark, content)
    except UserError as problem:
        return index, str(problem), None
    except OSError as problem:
        if not problem.strerror:
            raise
        return index, f"{problem.filename or marks}: {problem.strerror}", None
    return index, None, content


def _mark(marks: str, name: str, index: int) -> str:
    return join(marks, f"{name}-{index:06d}.json")


def ignore_progress(_: Any) -> None:
    """Report nothing; an `on_done` for jobs without progress."""
