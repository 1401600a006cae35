"""Files here or on any store that fsspec opens: named, fingerprinted, read whole, written so that none is ever half."""

import hashlib
import json
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import schema
from pipeline.core.errors import UserError

ROW_GROUP_ROWS = 65_536
REPETITIVE = ("source", "split", "reason", "category", "relevance", "weight")
_WHOLE_FILE = 256 << 20  # files up to this size are fingerprinted whole, larger ones by head, tail and size


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


def store_folder(local: str, path: str) -> None:
    """Copy a local folder to a place that may be remote, replacing what is there."""
    fs, root = filesystem(path)
    if fs.exists(root):
        fs.rm(root, recursive=True)
    fs.put(local.rstrip("/") + "/", root, recursive=True)


@contextmanager
def new_folder(path: str) -> Iterator[Path]:
    """A folder to fill, which then takes the place of `path`: by a rename here, file by file on a remote store."""
    if "://" in path:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            store_folder(folder, path)
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


def fetch_folder(path: str) -> str:
    """Bring a remote folder here and return its local place; what was brought before and is unchanged is used again."""
    fs, root = filesystem(path)
    listing = {
        name: [info.get("size"), str(info.get("ETag") or info.get("created") or "")]
        for name, info in fs.find(root, detail=True).items()
    }
    if not listing:
        raise UserError(f"{path}: no such directory, or it is empty")
    name = hashlib.sha256(json.dumps([path, listing], sort_keys=True).encode()).hexdigest()[:24]
    local = Path(tempfile.gettempdir()) / f"tripletail-{os.getuid()}" / name
    if not local.exists():
        local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = local.with_name(f"{name}.{uuid.uuid4().hex[:8]}.partial")
        fs.get(root.rstrip("/") + "/", f"{partial}/", recursive=True)
        try:
            partial.rename(local)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return str(local)


def fingerprint_file(path: str) -> str:
    """Digest the content of a file: whole up to 256 MiB, beyond that its size, head and tail (1 MiB each)."""
    fs, name = filesystem(path)
    if not fs.exists(name):
        raise UserError(f"{path}: no such file")
    size = fs.size(name)
    sha = hashlib.sha256(str(size).encode())
    with fs.open(name, "rb") as file:
        if size <= _WHOLE_FILE:
            while chunk := file.read(1 << 22):
                sha.update(chunk)
        else:
            sha.update(file.read(1 << 20))
            file.seek(size - (1 << 20))
            sha.update(file.read(1 << 20))
    return sha.hexdigest()[:24]


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
    partial = f"{name}.partial"
    with fs.open(partial, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    fs.mv(partial, name)


@contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; raises UserError where it is missing or damaged, here and while it is read."""
    fs, name = filesystem(path)
    try:
        with fs.open(name, "rb") as file:
            yield pq.ParquetFile(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path}: not readable as Parquet: {' '.join(str(error).split())}") from error


@contextmanager
def open_arrow(fs: Any, name: str) -> Iterator[Any]:
    """Open a file that Arrow reads here and there: by itself where it is local, through fsspec where not."""
    if "file" in fs.protocol:
        with pa.OSFile(name, "rb") as file:
            yield file
    else:
        with fs.open(name, "rb") as file:
            yield file


def read_parquet(path: str, table: str | None = None, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file; with `table`, check it against that contract first."""
    with open_parquet(path) as parquet:
        if table in schema.TABLES:
            schema.check(parquet.schema_arrow, str(table), path)
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


def write_parquet(path: str, table: pa.Table, group_rows: int = ROW_GROUP_ROWS) -> None:
    """Write one Parquet file (zstd, row groups of at most 64k rows or of `group_rows`) under a temporary name, then
    rename it.

    The temporary name is the writer's own: a task that Ray runs twice does not spoil its twin's file. Only columns
    that say the same over and over get a dictionary; building one of texts and ids takes longer than packing them.
    """
    fs, name = filesystem(path)
    fs.makedirs(posixpath.dirname(name), exist_ok=True)
    partial = f"{name}.{uuid.uuid4().hex[:8]}.partial"
    with fs.open(partial, "wb") as file:
        pq.write_table(
            table,
            file,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in table.column_names if name in REPETITIVE],
            row_group_size=group_rows,
        )
    fs.mv(partial, name)
