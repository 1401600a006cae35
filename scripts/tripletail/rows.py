"""Rows in memory as a source: written once as Parquet under the run's directory, by the name of their content.

    tripletail.build(sources=[{"rows": dataset, "kind": "qa"}], run="runs/faq")

The recipe that the job records then names a file, so that the same rows are the same input to a later run, a cluster
reads them where the run's directory is, and the recorded recipe can be run again without the caller's program.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.config import JobConfig
from pipeline.core.errors import UserError
from pipeline.sources.reading.record import SourceConfig
from pipeline.storage.files import ROW_GROUP_ROWS, absolute, filesystem, join
from pipeline.storage.fingerprints import fingerprint_file

KINDS = "a Ray or Hugging Face data set, an Arrow table, a pandas data frame or a list of dicts"


def with_files(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a job with files in place of rows: in the `sources` of a build and the `input` of an embedding."""
    folder = join(absolute(str(settings.get("run", JobConfig.model_fields["run"].default))), "inputs")
    filled = dict(settings)
    if is_rows(settings.get("input")):
        filled["input"] = write_rows(settings["input"], folder, "input")
    if "sources" in settings:
        sources = settings["sources"]
        filled["sources"] = [_as_source(source, folder) for source in ([sources] if is_rows(sources) else sources)]
    return filled


def is_rows(value: Any) -> bool:
    """Whether a value holds rows: a data set, a table, a data frame or a list of dicts that are no settings."""
    if isinstance(value, list | tuple):
        rows = value[:1]
        return bool(rows) and isinstance(rows[0], Mapping) and not {"type", "rows"} & set(rows[0])
    return type(value).__module__.partition(".")[0] in ("ray", "datasets", "pandas", "pyarrow")


def _as_source(source: Any, folder: str) -> Any:
    """The source as settings: rows become a Parquet file, with what was said of them; others stay as they are."""
    if is_rows(source):
        source = {"rows": source, "kind": "pair"}
    if not isinstance(source, Mapping) or "rows" not in source:
        return source
    about = {name: value for name, value in source.items() if name != "rows"}
    if about.pop("type", "rows") != "rows":
        raise UserError(f"source with rows: its type is {source['type']!r}; leave type out")
    of_source = {name: about.pop(name) for name in list(about) if name in SourceConfig.model_fields}
    label = str(of_source.setdefault("name", "rows"))
    path = write_rows(source["rows"], folder, label)
    return {"type": "parquet", **of_source, "files": [{"path": path, "kind": "pair", **about}]}


def write_rows(rows: Any, folder: str, label: str) -> str:
    """Write rows into `{folder}/{label}-{digest of the file}.parquet` and return the path; equal rows, equal path.

    Raises UserError for no rows, and for columns whose values have no common type.
    """
    partial = join(folder, f"{label}.{uuid.uuid4().hex[:8]}.partial")
    fs, name = filesystem(partial)
    fs.makedirs(name.rpartition("/")[0], exist_ok=True)
    try:
        with fs.open(name, "wb") as file:
            _write(rows, file, label)
        path = join(folder, f"{label}-{fingerprint_file(partial)}.parquet")
        fs.mv(name, filesystem(path)[1])
    finally:
        if fs.exists(name):
            fs.rm(name)
    return path


def _write(rows: Any, file: Any, label: str) -> None:
    """Write all rows in groups of one size, so that the file does not depend on how the caller's were cut."""
    writer = None
    try:
        for table in _regroup(tables(rows, label), ROW_GROUP_ROWS):
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd", compression_level=1)
            writer.write_table(table.cast(writer.schema), row_group_size=ROW_GROUP_ROWS)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise UserError(f"rows of {label!r}: {' '.join(str(error).split())}") from error
    if writer is None:
        raise UserError(f"rows of {label!r}: there are none")
    writer.close()


def _regroup(parts: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Tables of `size` rows, and the rest, from tables of any size."""
    pending: list[pa.Table] = []
    for part in parts:
        pending.append(part)
        while sum(table.num_rows for table in pending) >= size:
            joined = pa.concat_tables(pending)
            yield joined.slice(0, size).combine_chunks()
            pending = [joined.slice(size)]
    if sum(table.num_rows for table in pending):
        yield pa.concat_tables(pending).combine_chunks()


def tables(rows: Any, label: str) -> Iterator[pa.Table]:
    """Rows as Arrow tables, a part at a time where they are streamed; raises UserError for what is no rows."""
    library = type(rows).__module__.partition(".")[0]
    if isinstance(rows, pa.Table):
        yield rows
    elif library == "pandas" and hasattr(rows, "columns"):
        yield pa.Table.from_pandas(rows, preserve_index=False)
    elif library == "ray" and hasattr(rows, "iter_batches"):
        yield from rows.iter_batches(batch_size=ROW_GROUP_ROWS, batch_format="pyarrow")
    elif library == "datasets" and hasattr(rows, "with_format") and hasattr(rows, "iter"):
        yield from rows.with_format("arrow").iter(batch_size=ROW_GROUP_ROWS)
    elif library == "datasets":
        raise UserError(f"rows of {label!r}: name one split of the data set, such as dataset['train']")
    elif isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        names = dict.fromkeys(name for row in rows for name in row)  # in every row, not only the first
        if names:
            yield pa.table({str(name): [row.get(name) for row in rows] for name in names})
    else:
        raise UserError(f"rows of {label!r}: expected {KINDS}, got {type(rows).__name__}")
