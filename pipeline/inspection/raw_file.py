"""The beginning of a raw file or folder: its format by its first bytes, its columns, and its first rows."""

import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from lxml import etree

from pipeline.core.errors import UserError
from pipeline.sources.amazon import literal
from pipeline.sources.google_merchant import local_name
from pipeline.sources.json import documents, table_rows
from pipeline.sources.reading.mapping import Mapping
from pipeline.sources.reading.roles import ROLES
from pipeline.sources.reading.sample import FileFormat, FileSample
from pipeline.sources.xlsx import sheet_rows
from pipeline.storage.artifact import MANIFEST
from pipeline.storage.compression import open_decompressed
from pipeline.storage.csv_table import CsvTable, named_row
from pipeline.storage.files import filesystem, join, open_parquet
from pipeline.storage.lines import read_lines

ROWS = 200  # first rows that are looked at
_START = 1 << 16  # bytes
_MAX_READ_BYTES = 64 << 20  # bytes of a JSON document or of a member of an archive that is read whole
_FILES = 200  # names of a folder
_LONG_TITLE = 80  # characters, above which the first row of a table holds data and not names
Row = dict[str, Any]


def is_raw(path: str) -> bool:
    """Whether a path is a file, or a folder that no job has left: without a manifest in it or right below it."""
    fs, name = filesystem(path)
    if fs.isfile(name):
        return True
    left_by_job = (
        fs.exists(join(name, MANIFEST)) or fs.exists(join(name, "config.json")) or fs.glob(join(name, "*", MANIFEST))
    )
    return bool(fs.isdir(name) and not left_by_job)


def read_sample(path: str) -> FileSample:
    """Read the beginning of a file or folder.

    Raises UserError where there is none, where it is empty, or where it is broken.
    """
    fs, name = filesystem(path)
    if fs.isdir(name):
        return FileSample(path.rstrip("/"), "folder", files=tuple(_names(path)))
    if not fs.isfile(name):
        raise UserError(f"{path}: no such file or directory")
    with open_decompressed(path) as file:
        start = bytes(file.read(_START))
    if not start.strip():
        raise UserError(f"{path}: is empty")
    file_format = _format(start)
    columns, rows, more = _READERS[file_format](path)
    return FileSample(path, more.pop("format", file_format), tuple(columns), tuple(rows), start=start, **more)


def _names(path: str) -> list[str]:
    """Names of the files in a folder and below it, without hidden ones."""
    fs, root = filesystem(path)
    names = (name.removeprefix(root.rstrip("/")).lstrip("/") for name in fs.find(root))
    return sorted(islice((name for name in names if not any(p.startswith(".") for p in name.split("/"))), _FILES))


def _format(start: bytes) -> FileFormat:
    """Format of a file by its first bytes, decompressed."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"PK\x03\x04"):
        return "xlsx" if b"xl/" in start or b"[Content_Types].xml" in start[:200] else "zip"
    if start.startswith(b"PAR1"):
        return "parquet"
    if text.startswith(b"<"):
        return "xml"
    if re.match(rb"\[\s*[\[{\"\d]|\{\s*\n|\{\s*\}?\s*$", text):
        return "json"
    if text.startswith(b"{"):
        lines = text.split(b"\n")
        alone = not any(line.strip() for line in lines[1:])
        is_one_value = not _closes(lines[0]) or (alone and (len(start) == _START or _is_wrapper(lines[0])))
        return "json" if is_one_value else "json lines"
    return "text" if text.startswith((b"COL ", b"Package:")) else "csv"


def _is_wrapper(line: bytes) -> bool:
    """Whether the only line of a file is an export that holds the rows: JSON-LD, or lists of objects beside numbers."""
    row = literal(line)
    if not isinstance(row, dict):
        return False
    parts = list(row.values())
    is_table = len(parts) > 1 and all(isinstance(part, list | dict) and len(part) > 1 for part in parts)
    holds_rows = is_table or any(isinstance(part, list) and _has_objects(part) for part in parts)
    return "@context" in row or (holds_rows and not any(isinstance(part, str) for part in parts))


def _closes(line: bytes) -> bool:
    """Whether a line that begins an object ends one; broken objects and Python's own literals do so too."""
    return line.rstrip().endswith(b"}")


def _csv(path: str) -> tuple[list[str], list[Row], dict[str, Any]]:
    table = CsvTable.open(path)
    has_header = not any(_is_data(name) for name in table.names)
    if not has_header:
        table = CsvTable.open(path, table.delimiter, columns=[f"column {n}" for n in range(1, len(table.names) + 1)])
    named_rows = (named_row(table.names, row.cells) for row in islice(table.rows(), ROWS))
    return table.names, [row for row in named_rows if isinstance(row, dict)], {"header": has_header}


def _is_data(name: str) -> bool:
    """Whether a cell of a table's first row is a value and no name: a number, a sentence, or a long text."""
    return bool(re.fullmatch(r"-?\d+([.,]\d+)?|.*\s.*\w[.?!]", name)) or len(name) > _LONG_TITLE


def _json_lines(path: str) -> tuple[list[str], list[Row], dict[str, Any]]:
    parsed = (literal(line) for _, line in islice(read_lines(path), ROWS) if line.strip())
    rows = [row for row in parsed if isinstance(row, dict)]
    return _columns(rows), rows, {}


def _json(path: str) -> tuple[list[str], list[Row], dict[str, Any]]:
    with open_decompressed(path) as file:
        if len(file.read(_MAX_READ_BYTES + 1)) > _MAX_READ_BYTES:
            raise UserError(
                f"{path}: is a JSON document of more than {_MAX_READ_BYTES >> 20} MiB; write it as JSON lines"
            )
    values = documents(path)
    records = ""
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if len(values) == 1 and isinstance(values[0], dict):
        lists = {name: item for name, item in values[0].items() if isinstance(item, list) and _has_objects(item)}
        tables = (table_rows(values[0], Mapping(kind=kind)) for kind in ROLES)
        if table := next(filter(None, tables), []):
            rows = table
        elif lists:
            records = "" if "@graph" in lists else max(lists, key=lambda name: len(lists[name]))
            rows = lists.get("@graph") or lists[records]
    objects = [row for row in rows[:ROWS] if isinstance(row, dict)]
    return _columns(objects), objects, {"records": records}


def _has_objects(items: list[Any]) -> bool:
    return bool(items) and isinstance(items[0], dict)


def _parquet(path: str) -> tuple[list[str], list[Row], dict[str, Any]]:
    with open_parquet(path) as parquet:
        batch = next(parquet.iter_batches(ROWS), None)
        return parquet.schema_arrow.names, batch.to_pylist() if batch else [], {}


def _xml(path: str) -> tuple[list[str], list[Row], dict[str, Any]]:
    """The elements that repeat most, as rows of their attributes and of their children's texts."""
    by_tag: dict[str, list[Row]] = {}
    with open_decompressed(path) as file:
        try:
            for element in _elements(file):
                row = dict(element.attrib) | {_local(child): (child.text or "").strip() for child in element}
                if len(row) > 1:
                    by_tag.setdefault(_local(element), []).append(row)
        except etree.XMLSyntaxError as error:
            raise UserError(f"{path}: not readable as XML: {' '.join(str(error).split())}") from error
    if not by_tag:
        raise UserError(f"{path}: not readable as XML: no element in it has fields")
    rows = max(by_tag.values(), key=len, default=[])[:ROWS]
    return _columns(rows), rows, {}


def _elements(file: Any) -> Iterator[Any]:
    ends = etree.iterparse(file, events=("end",), resolve_entities=False, no_network=True, recover=True)
    for _, element in islice(ends, 50 * ROWS):
        if isinstance(element.tag, str):
            yield element


def _local(element: Any) -> str:
    return local_name(element) if isinstance(element.tag, str) else "comment"


def _text(path: str) -> tuple[list[str], list[Row], dict[str, Any]]:
    lines = [line.decode("utf-8", "replace") for _, line in islice(read_lines(path), ROWS) if line.strip()]
    return ["line"], [{"line": line} for line in lines], {}


def _xlsx(path: str) -> tuple[list[str], list[Row], dict[str, Any]]:
    with _readable(path, "an Excel file"):
        lines = [["" if cell is None else cell for cell in row] for _, row in islice(sheet_rows(path), ROWS + 1)]
    if not lines:
        raise UserError(f"{path}: its first sheet is empty")
    names = [str(cell).strip() for cell in lines[0]]
    return names, [dict(zip(names, line, strict=False)) for line in lines[1:]], {}


def _zip(path: str) -> tuple[list[str], list[Row], dict[str, Any]]:
    """The members of an archive, and the beginning of the first that can be read; its format is that of the member."""
    fs, name = filesystem(path)
    with _readable(path, "a zip archive"), fs.open(name, "rb") as file, zipfile.ZipFile(file) as archive:
        members = [
            item for item in archive.infolist() if not item.is_dir() and not item.filename.startswith("__MACOSX")
        ]
        names = tuple(item.filename for item in members[:_FILES])
        first = next((item for item in members if 0 < item.file_size <= _MAX_READ_BYTES), None)
        if first is None:
            return [], [], {"files": names}
        with tempfile.TemporaryDirectory() as folder:
            inside = Path(folder) / Path(first.filename).name
            with archive.open(first) as member:
                inside.write_bytes(member.read(_MAX_READ_BYTES))
            sample = read_sample(str(inside))
    more = {"files": names, "format": sample.format, "records": sample.records, "header": sample.header}
    return list(sample.columns), list(sample.rows), more


@contextmanager
def _readable(path: str, kind: str) -> Iterator[None]:
    """Refuse a broken archive in one line; an Excel file is an archive too."""
    try:
        yield
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError) as error:
        raise UserError(f"{path}: not readable as {kind}: {error}") from error


def _columns(rows: list[Row]) -> list[str]:
    """Every field of the rows, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


_READERS = {
    "csv": _csv,
    "json lines": _json_lines,
    "json": _json,
    "parquet": _parquet,
    "xml": _xml,
    "text": _text,
    "zip": _zip,
    "xlsx": _xlsx,
}
