"""Files of rows that are text: JSON lines, CSV, TSV and plain lines, read from any row on.

Rows are known by the byte where they begin, so that a file can be read from its middle. A row that cannot be read is
None.
"""

import json
import posixpath
from collections.abc import Iterator
from typing import Any

from pipeline.core.errors import UserError
from pipeline.storage.csv_table import CsvRow, CsvTable, named_row
from pipeline.storage.json_lines import parse_object
from pipeline.storage.lines import check_utf8, read_lines

JSON_LINES, TABLES, LINES = (".jsonl", ".ndjson"), (".csv", ".tsv"), (".txt",)
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
SUFFIXES = tuple(name + packed for name in (*JSON_LINES, *TABLES, *LINES) for packed in ("", *_COMPRESSED))
Row = dict[str, Any] | None


def offsets(path: str) -> Iterator[int]:
    """Yield the byte at which each row begins; blank lines are no rows.

    Raises UserError for a table without header, and for lines that are not UTF-8 by their first bytes.
    """
    if _suffix(path) in TABLES:
        yield from (row.offset for row in _table(path).rows() if _has_content(row))
    else:
        check_utf8(path)
        yield from (offset for offset, line in read_lines(path) if line.strip())


def rows(path: str, offset: int, first: int) -> Iterator[Row]:
    """Yield the rows from byte `offset` on, as `offsets` gives it; `first` is the index of the first one in the file.

    A plain line is a row of `text` and an `id` made of the file's name and the line's number.
    """
    suffix = _suffix(path)
    if suffix in TABLES:
        table = _table(path)
        yield from (_to_dict(table, row) for row in table.rows(offset) if _has_content(row))
        return
    lines = (line for _, line in read_lines(path, offset) if line.strip())
    if suffix in JSON_LINES:
        yield from map(_parsed, lines)
    else:
        name = posixpath.basename(path)
        yield from (_plain(line, f"{name}:{number}") for number, line in enumerate(lines, first + 1))


def _suffix(path: str) -> str:
    """End of a file's name that says what its rows are."""
    stem, suffix = posixpath.splitext(path)
    return posixpath.splitext(stem)[1] if suffix in _COMPRESSED else suffix


def _table(path: str) -> CsvTable:
    table = CsvTable.open(path, delimiter="\t" if _suffix(path) == ".tsv" else None)
    if not table.names:
        raise UserError(f"{path}: is empty; expected a first line with the names of the columns")
    return table


def _has_content(row: CsvRow) -> bool:
    return isinstance(row.cells, str) or any(row.cells)


def _to_dict(table: CsvTable, row: CsvRow) -> Row:
    cells = named_row(table.names, row.cells)
    return cells if isinstance(cells, dict) else None


def _parsed(line: bytes) -> Row:
    row = parse_object(line)
    if isinstance(row, str):
        return None
    try:
        if b"\\ud" in line.lower():
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except ValueError:
        return None
    return row


def _plain(line: bytes, name: str) -> Row:
    try:
        return {"id": name, "text": line.decode("utf-8").strip()}
    except UnicodeDecodeError:
        return None
