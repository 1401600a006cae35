"""Shards: row ranges of input files, and one output file for each.

Files are always cut the same way, and an output is named after what it was made of. It is committed by a rename and
holds its row counts in the Parquet footer, so that the directory alone shows which shards are finished after a kill.
"""

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import UserError
from pipeline.storage import text_files
from pipeline.storage.artifact import digest
from pipeline.storage.files import ROW_GROUP_ROWS, filesystem, join, open_parquet, write_parquet, write_parquet_stream
from pipeline.storage.fingerprints import fingerprint_files

PARQUET = (".parquet",)
_COUNTS = b"tripletail.counts"
_BATCH_ROWS = 4096
_HEAD_ROWS = 100
SAMPLED_SHARDS = 16  # over which a sample is spread


@dataclass(frozen=True)
class Shard:
    """A row range of one input file, and the name of its output."""

    index: int
    path: str
    start: int
    rows: int
    offset: int  # byte where the first row begins; not of Parquet
    name: str


def find_files(path: str) -> list[str]:
    """Return the Parquet, JSON-lines, CSV, TSV and text files of a file name, directory or glob, sorted by name.

    Raises UserError when there is none.
    """
    fs, root = filesystem(path)
    if fs.isdir(root):
        names = [name for name in fs.find(root) if not _hidden(name.removeprefix(root))]
    elif any(mark in root for mark in "*?["):
        names = fs.glob(root)
    else:
        names = [root] if fs.exists(root) else []
    files = sorted(name for name in names if name.endswith(PARQUET + text_files.SUFFIXES))
    if not files:
        kinds = ", ".join(PARQUET + text_files.SUFFIXES)
        raise UserError(f"input {path}: " + (f"holds no {kinds} file" if names else "no such file or directory"))
    local = {"file", "local"} & set(fs.protocol if isinstance(fs.protocol, tuple) else [fs.protocol])
    return files if local else [fs.unstrip_protocol(name) for name in files]


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def fingerprint(files: Sequence[str]) -> str:
    """Return a digest of the content of files, in order."""
    names = [posixpath.basename(path) for path in files]
    return digest([list(pair) for pair in zip(names, fingerprint_files(files), strict=True)])


def plan(files: Sequence[str], rows_per_shard: int, salt: str, marks: Sequence[str] | None = None) -> list[Shard]:
    """Cut files into shards of at most `rows_per_shard` rows; `salt` goes into the names of their outputs.

    So does the mark of each file, where there are marks: its content, so that a name tells what it was made of.
    """
    shards: list[Shard] = []
    for path, mark in zip(files, marks or [""] * len(files), strict=True):
        for start, rows, offset in _cuts(path, rows_per_shard):
            index = len(shards)
            key = digest([salt, mark, posixpath.basename(path), start, rows, offset])[:16]
            shards.append(Shard(index, path, start, rows, offset, f"part-{index:06d}-{key}"))
    return shards


def reuse_outputs(folder: str, plan: Sequence[Shard]) -> list[str]:
    """Rename outputs in `folder` that a plan has under another number; return those that are not in the plan.

    An output is recognised by the key in its name, so that files may be added before its own.
    """
    fs, root = filesystem(folder)
    names = map(posixpath.basename, fs.glob(join(root, "*.parquet"))) if fs.exists(root) else []
    existing = {_key(name): name for name in names}
    for shard in plan:
        old, new = existing.pop(_key(shard.name), None), f"{shard.name}.parquet"
        if old and old != new:
            fs.mv(join(root, old), join(root, new))
    return [join(folder, name) for name in sorted(existing.values())]


def unfinished_outputs(folder: str) -> list[str]:
    """Return what killed writers left in `folder`."""
    fs, root = filesystem(folder)
    return [join(folder, posixpath.basename(name)) for name in sorted(fs.glob(join(root, "*.partial")))]


def _key(name: str) -> str:
    return name.removesuffix(".parquet").rpartition("-")[2]


def _cuts(path: str, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first row, rows, byte offset) of each shard of a file."""
    if path.endswith(PARQUET):
        with open_parquet(path) as file:
            total = file.metadata.num_rows
        yield from ((start, min(size, total - start), 0) for start in range(0, total, size))
        return
    start = 0
    offsets = text_files.offsets(path)
    while chunk := list(islice(offsets, size)):
        yield start, len(chunk), chunk[0]
        start += len(chunk)


def read(shard: Shard, columns: Sequence[str]) -> pa.Table:
    """Read columns of a shard's rows; raises UserError naming a column that the file does not have.

    Rows of text files that cannot be read are left out: the table is that much shorter than `shard.rows`.
    """
    if not shard.path.endswith(PARQUET):
        return _read_text(shard, shard.rows, columns)
    with open_parquet(shard.path) as file:
        _check_columns(shard.path, columns, file.schema_arrow.names)
        schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        batches = _slices(file, shard, columns) if shard.rows else ()
        return pa.Table.from_batches([batch.select(list(columns)) for batch in batches], schema)


def sample(plan: Sequence[Shard], columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Yield about `rows` rows, evenly spread, of up to 16 shards that are spread evenly over a plan."""
    chosen = [plan[index] for index in spread(len(plan), SAMPLED_SHARDS)]
    for shard in chosen:
        table = read(shard, columns)
        yield table.take(pa.array(spread(table.num_rows, -(-rows // len(chosen)))))


def spread(count: int, size: int) -> npt.NDArray[np.int64]:
    """Return up to `size` of the indices of `count` items, evenly spread."""
    return np.unique(np.linspace(0, max(0, count - 1), min(size, count)).astype(np.int64))


def head(shard: Shard, columns: Sequence[str]) -> pa.Table:
    """Read the first rows of a shard, to see whether the columns exist and of which type they are."""
    if not shard.path.endswith(PARQUET):
        return _read_text(shard, min(_HEAD_ROWS, shard.rows), columns)
    with open_parquet(shard.path) as file:
        _check_columns(shard.path, columns, file.schema_arrow.names)
        return file.schema_arrow.empty_table().select(list(columns))


def _slices(file: pq.ParquetFile, shard: Shard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a shard in small batches, since a row group of a user's file may hold millions."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    ends = list(accumulate(sizes))
    end = shard.start + shard.rows
    groups = [g for g, last in enumerate(ends) if last > shard.start and last - sizes[g] < end]
    position = ends[groups[0]] - sizes[groups[0]]
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=list(columns)):
        if position + batch.num_rows > shard.start:
            first = max(0, shard.start - position)
            yield batch.slice(first, end - position - first)
        position += batch.num_rows
        if position >= end:
            return


def _check_columns(path: str, expected: Sequence[str], actual: Sequence[str]) -> None:
    for name in expected:
        if name not in actual:
            raise UserError(f"{path}: has no column '{name}'; it has {', '.join(actual)}")


def _read_text(shard: Shard, count: int, columns: Sequence[str]) -> pa.Table:
    parsed = islice(text_files.rows(shard.path, shard.offset, shard.start), count)
    rows = [row for row in parsed if row is not None]
    if rows:
        _check_columns(shard.path, columns, sorted({key for row in rows for key in row}))
    return pa.table({name: _column([row.get(name) for row in rows], shard.path, name) for name in columns})


def _column(values: list[Any], path: str, name: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{path}: column '{name}' mixes types: {' '.join(str(error).split())}") from error


def string_column(table: pa.Table, name: str, path: str, *, numbers: bool = False) -> pa.ChunkedArray:
    """Return a column as strings, integers too where `numbers`; raises UserError for any other type."""
    column = table.column(name)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    if not text and not (numbers and pa.types.is_integer(kind)):
        raise UserError(f"{path}: column '{name}' is {column.type}, expected strings")
    return column.cast(pa.string())


def commit(folder: str, name: str, table: pa.Table, counts: dict[str, Any]) -> None:
    """Write the output of a shard in one step, with its counts in the footer."""
    meta = {_COUNTS: json.dumps({"rows": table.num_rows, **counts}).encode()}
    write_parquet(join(folder, f"{name}.parquet"), table.replace_schema_metadata(meta))


def commit_stream(
    folder: str,
    name: str,
    tables: Iterable[pa.Table],
    counts: Callable[[], dict[str, Any]],
    group_rows: int = ROW_GROUP_ROWS,
) -> None:
    """Write the output of a shard as `commit` does, table by table; `counts` are asked at the end."""
    rows = 0

    def counted() -> Iterator[pa.Table]:
        nonlocal rows
        for table in tables:
            rows += table.num_rows
            yield table

    path = join(folder, f"{name}.parquet")
    write_parquet_stream(
        path, counted(), lambda: {_COUNTS.decode(): json.dumps({"rows": rows, **counts()})}, group_rows
    )


def committed(folder: str, name: str) -> dict[str, Any] | None:
    """Return the counts of a shard's output; None where it is absent or incomplete."""
    path = join(folder, f"{name}.parquet")
    fs, root = filesystem(path)
    if not fs.exists(root):
        return None
    try:
        with open_parquet(path) as file:
            counts: dict[str, Any] = json.loads((file.metadata.metadata or {}).get(_COUNTS, b"{}"))
            return counts if counts.get("rows") == file.metadata.num_rows else None
    except UserError:
        return None


def read_batches(files: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of Parquet files, one row group at a time."""
    for path in files:
        with open_parquet(path) as file:
            for group in range(file.metadata.num_row_groups):
                yield file.read_row_group(group, columns=list(columns))
