"""Files here or on any store that fsspec opens: named, fingerprinted, read whole, written so that none is ever half."""

import hashlib
import json
import os
import posixpath
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import schema
from pipeline.core.errors import UserError

ROW_GROUP_ROWS = 65_536
_UNUSED_S = 24 * 3600.0  # after which a copy of an earlier version of a remote folder is removed
REPETITIVE = ("source", "split", "reason", "category", "relevance", "weight")


def filesystem(path: str) -> tuple[Any, str]:
    """Open the file system of a path and return it with the path as that file system names it.

    Listings are not cached: other processes write the parts that this one counts.
    """
    try:
        fs, root = fsspec.core.url_to_fs(path, use_listings_cache=False)
    except ImportError as error:
        scheme = path.split("://")[0]
        raise UserError(f"{path}: no driver for '{scheme}://'; install tripletail[{scheme}]") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return fs, root


def join(path: str, *parts: str) -> str:
    """Join path parts, local or remote."""
    return posixpath.join(path, *parts)


def absolute(path: str) -> str:
    """Make a local path absolute, since workers run elsewhere; leave remote ones as they are."""
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100  no symlink is to be resolved


def remove_folder(path: str) -> None:
    """Remove a folder and all that is in it, where there is one."""
    fs, root = filesystem(path)
    if fs.exists(root):
        fs.rm(root, recursive=True)


def upload_folder(local: str, path: str) -> None:
    """Copy a local folder to a place that may be remote, replacing what is there."""
    remove_folder(path)
    fs, root = filesystem(path)
    fs.put(local.rstrip("/") + "/", root, recursive=True)


@contextmanager
def new_folder(path: str) -> Iterator[Path]:
    """A folder to fill, which then takes the place of `path`: by a rename here, file by file on a remote store."""
    if "://" in path:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            upload_folder(folder, path)
        return
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


@contextmanager
def new_file(path: str) -> Iterator[Path]:
    """Yield a local path to write a file to, which then replaces `path` in one step, on a remote store too."""
    fs, name = filesystem(path)
    fs.makedirs(posixpath.dirname(name), exist_ok=True)
    if "://" not in path:
        partial = Path(f"{path}.partial")
        yield partial
        partial.replace(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / posixpath.basename(name)
        yield local
        fs.put(str(local), f"{name}.partial")
    fs.mv(f"{name}.partial", name)


@contextmanager
def local_file(path: str) -> Iterator[Path]:
    """Yield a local path of a file; a remote one is copied to this machine and removed afterwards."""
    if "://" not in path:
        yield Path(path)
        return
    fs, name = filesystem(path)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / posixpath.basename(name)
        fs.get(name, str(local))
        yield local


VERSION_FIELDS = (  # under which stores name what tells one content of an object from another
    "ETag",
    "etag",
    "VersionId",
    "version_id",
    "generation",
    "md5Hash",
    "content_md5",
    "crc32c",
    "LastModified",
    "last_modified",
    "updated",
    "modified",
    "mtime",
    "modification_time",
    "created",
)


def object_version(info: dict[str, Any]) -> dict[str, str]:
    """What a store says of one object that changes with its content: its size and every mark of a version it names.

    Stores name these fields differently (S3 `ETag`, Google `etag` and `generation`, Azure `last_modified`, sftp and
    HDFS `mtime` or `modification_time`); a directory entry without any of them has no version, only a size.
    """
    marks = {name: str(info[name]) for name in VERSION_FIELDS if info.get(name) not in (None, "")}
    return {"size": str(info.get("size")), **marks}


def cache_directory() -> Path:
    """Directory of what may be kept between runs on this machine: $TRIPLETAIL_CACHE, else `tripletail` in the user's
    cache directory, else one below the temporary directory where there is no home that can be written.

    Readable by the user alone, since models are kept in it.
    """
    chosen = os.environ.get("TRIPLETAIL_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    candidates = (
        [Path(chosen)] if chosen else [base / "tripletail", Path(tempfile.gettempdir()) / f"tripletail-{os.getuid()}"]
    )
    for path in candidates:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK):
            return path
    raise UserError(f"{candidates[-1]}: cannot be written; name a directory for what is kept in TRIPLETAIL_CACHE")


def download_folder(path: str) -> str:
    """Copy a remote folder into the cache of this machine and return the local path.

    A copy is used again while the store names the same objects with the same sizes and versions. Where it names no
    version of an object, the folder is copied each time. Copies of earlier versions that nobody opened for a day are
    removed. Raises UserError where the folder is missing or empty.
    """
    fs, root = filesystem(path)
    listing = {name.removeprefix(root): object_version(info) for name, info in fs.find(root, detail=True).items()}
    if not listing:
        raise UserError(f"{path}: no such directory, or it is empty")
    versioned = all(len(marks) > 1 for marks in listing.values())
    salt = "" if versioned else uuid.uuid4().hex
    parent = cache_directory() / "folders" / hashlib.sha256(path.encode()).hexdigest()[:24]
    local = parent / hashlib.sha256(json.dumps([listing, salt], sort_keys=True).encode()).hexdigest()[:24]
    if not local.exists():
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = local.with_name(f"{local.name}.{uuid.uuid4().hex[:8]}.partial")
        fs.get(root.rstrip("/") + "/", f"{partial}/", recursive=True)
        try:
            partial.rename(local)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    os.utime(local)
    for other in parent.iterdir():
        if other != local and time.time() - other.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(other, ignore_errors=True)
    return str(local)


def read_json(path: str) -> Any:
    """Read a JSON file, or raise UserError."""
    fs, name = filesystem(path)
    try:
        with fs.open(name, "r", encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def write_json(path: str, value: Any) -> None:
    """Write JSON so that readers see all of it or nothing: a temporary name, then a rename."""
    fs, name = filesystem(path)
    fs.makedirs(posixpath.dirname(name), exist_ok=True)
    partial = f"{name}.{uuid.uuid4().hex[:8]}.partial"
    with fs.open(partial, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        if "file" in fs.protocol:  # a rename must not reach the disk before the content
            file.flush()
            os.fsync(file.fileno())
    fs.mv(partial, name)


@contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; raises UserError where it is missing or damaged, here and while it is read."""
    fs, name = filesystem(path)
    try:
        with open_arrow(fs, name) as file:
            yield pq.ParquetFile(file, pre_buffer="file" not in fs.protocol)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path}: not readable as Parquet: {' '.join(str(error).split())}") from error


@contextmanager
def open_arrow(fs: Any, name: str) -> Iterator[Any]:
    """Open a file that Arrow reads here and there: by itself where it is local, through fsspec where not.

    Arrow asks for the ranges that it needs; fsspec's read-ahead would fetch megabytes for each of them.
    """
    if "file" in fs.protocol:
        with pa.OSFile(name, "rb") as file:
            yield file
    else:
        with fs.open(name, "rb", cache_type="none") as file:
            yield file


def read_parquet(path: str, table: str | None = None, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file; with `table`, check it against that contract first."""
    with open_parquet(path) as parquet:
        if table in schema.TABLES:
            schema.check_schema(parquet.schema_arrow, str(table), path)
        try:
            return parquet.read(columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise UserError(f"{path}: {_unreadable(parquet)}: {' '.join(str(error).split())}") from error


def _unreadable(parquet: pq.ParquetFile) -> str:
    """Name the first row group of a file that cannot be read, and its rows."""
    start = 0
    for number in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(number).num_rows
        try:
            parquet.read_row_group(number)
        except (pa.ArrowInvalid, OSError):
            return f"row group {number} (rows {start} to {start + rows - 1}) is not readable"
        start += rows
    return "not readable as Parquet"


def _token_columns(path: str, kind: pa.DataType) -> list[str]:
    """Paths of the lists of int32 in a column, as Parquet names them."""
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _token_columns(f"{path}.{field.name}", field.type)]
    if not pa.types.is_list(kind):
        return []
    element, values = f"{path}.list.element", kind.value_type
    return [element] if pa.types.is_int32(values) else _token_columns(element, values)


def write_parquet(path: str, table: pa.Table, group_rows: int = ROW_GROUP_ROWS) -> None:
    """Write one Parquet file (zstd, row groups of at most 64k rows or of `group_rows`) under a temporary name, then
    rename it.

    The temporary name is the writer's own: a task that Ray runs twice does not spoil its twin's file. Only columns
    that say the same over and over get a dictionary; building one of texts and ids takes longer than packing them.
    Token ids are split by byte, of which the upper ones are nearly always 0: smaller, and faster to write and read.
    """
    write_parquet_stream(path, [table], dict, group_rows)


def write_parquet_stream(
    path: str,
    tables: Iterable[pa.Table],
    metadata: Callable[[], Mapping[str, str]],
    group_rows: int = ROW_GROUP_ROWS,
) -> None:
    """Write tables of one schema, of which there is at least one, into one file as `write_parquet` does, each as it
    comes.

    `metadata` is asked when all are written, and goes into the footer.
    """
    fs, name = filesystem(path)
    fs.makedirs(posixpath.dirname(name), exist_ok=True)
    partial = f"{name}.{uuid.uuid4().hex[:8]}.partial"
    remaining = iter(tables)
    first = next(remaining)
    dictionaries = [column for column in first.column_names if column in REPETITIVE]
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": dictionaries}
    options["use_byte_stream_split"] = [
        path for field in first.schema for path in _token_columns(field.name, field.type)
    ]
    try:
        with fs.open(partial, "wb") as file, pq.ParquetWriter(file, first.schema, **options) as writer:
            for table in chain([first], remaining):
                writer.write_table(table, row_group_size=group_rows)
            if footer := dict(metadata()):
                writer.add_key_value_metadata(footer)
    except BaseException:
        if fs.exists(partial):
            fs.rm(partial)
        raise
    fs.mv(partial, name)
