"""CSV and other delimited tables of text: how a file is written is read from its beginning, then row after row."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.storage.compression import open_decompressed
from pipeline.storage.lines import read_lines

DELIMITERS = ",;\t|"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_END_IS_ONE_BYTE = ("utf-8", "ascii", "iso8859-1", "cp1252")
_HEAD_BYTES = 1 << 16


class CsvRow(NamedTuple):
    """A row of a table: number of its first line, byte offset of it, and its cells, or what is wrong with it."""

    line: int
    offset: int
    cells: list[str] | str


@dataclass(frozen=True)
class CsvTable:
    """A delimited file: its delimiter, its encoding, the length of its byte-order mark, the names of its columns."""

    path: str
    delimiter: str
    encoding: str
    mark: int
    names: list[str]
    has_header: bool

    @classmethod
    def open(
        cls, path: str, delimiter: str | None = None, encoding: str | None = None, columns: Sequence[str] = ()
    ) -> "CsvTable":
        """Look at the beginning of a file; its first row is the header unless `columns` names the columns.

        The delimiter is by default the most frequent of , ; tab | in line one, the encoding UTF-8 or what a byte-order
        mark says. Raises UserError for a header that is not CSV.
        """
        with open_decompressed(path) as file:
            start = bytes(file.read(_HEAD_BYTES))
        encoding, mark = _encoding(start, encoding)
        with io.TextIOWrapper(io.BytesIO(start[mark:]), encoding, errors="replace", newline="") as text:
            first = next((line for line in text if line.strip()), "")
            delimiter = delimiter or max(DELIMITERS, key=first.count)
            text.seek(0)
            try:
                cells = next((row for row in csv.reader(text, delimiter=delimiter) if row), [])
            except csv.Error as error:
                raise UserError(f"{path}: has no readable header: {error}") from error
        names = list(columns) or [cell.strip() for cell in cells]
        return cls(path, delimiter, encoding, mark, names, not columns)

    @property
    def splits_by_bytes(self) -> bool:
        """Whether every line end is the byte of one, so that a file without quoted cells can be cut anywhere."""
        return codecs.lookup(self.encoding).name in _LINE_END_IS_ONE_BYTE

    def rows(self, offset: int = 0, longest_cell: int = 1 << 26) -> Iterator[CsvRow]:
        """Yield the rows from byte `offset` on, where a row must begin, by the rules of CSV; blank lines are no rows.

        Cells may be quoted and hold line ends. An unclosed quote costs the rows up to the next quote or up to
        `longest_cell` characters, and gives one row that says so: lenient reading would join them in silence.
        """
        header = self.has_header and offset == 0
        offset = max(offset, self.mark)
        with (
            open_decompressed(self.path, offset) as raw,
            io.TextIOWrapper(raw, self.encoding, self._errors, newline="") as text,
        ):
            lines = _CountedLines(text, self.encoding, self._errors)
            reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
            while True:
                line, start = reader.line_num + 1, offset + lines.bytes
                try:
                    cells: list[str] | str = _next(reader, longest_cell)
                except StopIteration:
                    return
                except csv.Error as error:
                    cells = f"not CSV: {error}"
                if not cells or cells == [""]:
                    continue
                if header:
                    header = False
                    continue
                yield CsvRow(line, start, cells)

    def unquoted_rows(self, start: int = 0, end: int = -1) -> Iterator[CsvRow]:
        """Yield the lines that start in a byte range, cut at every delimiter; quotes have no meaning."""
        for line, (offset, raw) in enumerate(read_lines(self.path, start, end), 1):
            if raw.strip() and not (self.has_header and offset == 0):
                yield CsvRow(line, offset, raw.decode(self.encoding, self._errors).split(self.delimiter))

    @property
    def _errors(self) -> str:
        return "replace" if self.encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"


def named_row(names: Sequence[str], cells: list[str] | str) -> dict[str, str] | str:
    """Make a row of named cells, or say what is wrong with it; empty cells beyond the last column are ignored."""
    if isinstance(cells, str):
        return cells
    if len(cells) < len(names) or any(cells[len(names) :]):
        return f"{len(cells)} columns, the header has {len(names)}"
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return "holds bytes that are not in the file's encoding; name it by `encoding`, for example cp1252"
    row: dict[str, str] = {}
    for name, cell in zip(names, cells, strict=False):
        row.setdefault(name, cell)
    return row


class _CountedLines:
    """Lines of a text, and how many bytes of the file those that were read are."""

    def __init__(self, text: io.TextIOWrapper, encoding: str, errors: str) -> None:
        self.text, self.encoding, self.errors, self.bytes = text, encoding, errors, 0

    def __iter__(self) -> "_CountedLines":
        return self

    def __next__(self) -> str:
        line = next(self.text)
        self.bytes += len(line.encode(self.encoding, self.errors))
        return line


def _next(reader: Iterator[list[str]], longest_cell: int) -> list[str]:
    """Return the next row; the limit of a cell's length holds for this call only, as it is global to the process."""
    limit = csv.field_size_limit(longest_cell)
    try:
        return next(reader)
    finally:
        csv.field_size_limit(limit)


def _encoding(start: bytes, encoding: str | None) -> tuple[str, int]:
    """Return the encoding of a file and the length of its byte-order mark.

    A mark decides the byte order, and the encoding where none is given; one that contradicts `encoding` is text.
    """
    name = codecs.lookup(encoding or "utf-8").name
    for mark, marked in _MARKS:
        if start.startswith(mark) and (encoding is None or name.startswith(marked[:6].rstrip("-"))):
            return marked, len(mark)
    return {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(name, name), 0
