"""Files of rows that are text: JSON lines, CSV, TSV and plain lines; a row that cannot be read is None.

Rows are found again by the byte where they begin, so that a file can be read from its middle.
"""

import csv
import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import fsspec

from pipeline.core.errors import UserError

JSON_LINES, TABLES, LINES = (".jsonl", ".ndjson"), (".csv", ".tsv"), (".txt",)
SUFFIXES = tuple(name + packed for name in (*JSON_LINES, *TABLES, *LINES) for packed in ("", ".gz"))
Row = dict[str, Any] | None
_LONGEST_CELL = 1 << 26


@contextmanager
def _opened(path: str, offset: int = 0) -> Iterator[Any]:
    with fsspec.open(path, "rb", compression="infer") as file:
        file.seek(offset)
        yield file


def offsets(path: str) -> Iterator[int]:
    """Yield the byte at which each row begins; blank lines are no rows."""
    if _kind(path) in TABLES:
        with _opened(path) as file:
            yield from islice((place for place, _ in _cells(file, 0, _header(path)[0])), 1, None)
        return
    place = 0
    with _opened(path) as file:
        for line in file:
            if line.strip():
                yield place
            place += len(line)


def rows(path: str, offset: int, first: int) -> Iterator[Row]:
    """Yield the rows from byte `offset` on; `first` is the number of the first one, which plain lines are named by."""
    kind = _kind(path)
    with _opened(path, offset) as file:
        if kind in TABLES:
            delimiter, names = _header(path)
            yield from (_named(names, cells) for _, cells in _cells(file, offset, delimiter))
            return
        lines = (line for line in file if line.strip())
        if kind in JSON_LINES:
            yield from map(_parsed, lines)
        else:
            name = posixpath.basename(path)
            yield from (_line(line, f"{name}:{number}") for number, line in enumerate(lines, first + 1))


def _kind(path: str) -> str:
    return posixpath.splitext(path.removesuffix(".gz"))[1]


def _header(path: str) -> tuple[str, list[str]]:
    """Delimiter and column names of a table: tab, or the most frequent of , ; | and tab in its first line."""
    with _opened(path) as file:
        line = file.readline().decode("utf-8-sig", "surrogateescape")
        tab = _kind(path) == ".tsv"
        delimiter = "\t" if tab else max(",;\t|", key=line.count)
        file.seek(0)
        _, names = next(_cells(file, 0, delimiter), (0, None))
    if not names:
        raise UserError(f"{path}: is empty; wanted a first line with the names of the columns")
    return delimiter, [name.removeprefix("\ufeff") for name in names]


def _cells(file: Any, offset: int, delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """Yield the byte and the cells of each row; a quoted cell may hold line ends."""
    csv.field_size_limit(_LONGEST_CELL)
    read = offset

    def lines() -> Iterator[str]:
        nonlocal read
        for line in file:
            read += len(line)
            yield line.decode("utf-8", "surrogateescape")

    reader, place = csv.reader(lines(), delimiter=delimiter, strict=True), offset
    while True:
        try:
            cells: list[str] | None = next(reader)
        except StopIteration:
            return
        except csv.Error:
            cells = None
        if cells is None or any(cells):
            yield place, cells
        place = read


def _named(names: list[str], cells: list[str] | None) -> Row:
    if cells is None or len(cells) != len(names) or not all(map(_sound, cells)):
        return None
    return dict(zip(names, cells, strict=True))


def _sound(text: str) -> bool:
    return text.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in text)


def _parsed(line: bytes) -> Row:
    try:
        row = json.loads(line)
        if b"\\ud" in line.lower():
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _line(line: bytes, name: str) -> Row:
    try:
        return {"id": name, "text": line.decode("utf-8").strip()}
    except UnicodeDecodeError:
        return None
