"""CSV and other delimited tables of text: how a file is written is read from its beginning, then row after row."""

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.storage.compression import open_decompressed
from pipeline.storage.lines import MAX_LINE_BYTES, LongLine, read_lines

DELIMITERS = ",;\t|"
LONGEST_CELL = 1 << 24  # characters, above which a quote is taken for one that nobody closed
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_END_IS_ONE_BYTE = ("utf-8", "ascii", "iso8859-1", "cp1252")
_HEAD_BYTES, _HEAD_ROWS = 1 << 16, 200  # from which the delimiter is told
_SEP_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # with which Excel names the delimiter
_ESCAPED_QUOTE = '; where quotes are escaped by a backslash, say `escape: "\\\\"`'


class CsvRow(NamedTuple):
    """A row of a table: number of its first line, byte offset of it, its cells or what is wrong with it, its lines."""

    line: int
    offset: int
    cells: list[str] | str
    lines: int = 1


@dataclass(frozen=True)
class CsvTable:
    """A delimited file: its delimiter, its encoding, the bytes and lines before its first row, its columns' names."""

    path: str
    delimiter: str
    encoding: str
    mark: int  # bytes before the first row: a byte-order mark, and the line that names the delimiter
    names: list[str]
    has_header: bool
    escape: str | None = None
    sep_line: bool = False  # whether the file begins with a line that names the delimiter

    @classmethod
    def open(
        cls,
        path: str,
        delimiter: str | None = None,
        encoding: str | None = None,
        columns: Sequence[str] = (),
        escape: str | None = None,
    ) -> "CsvTable":
        """Look at the beginning of a file; its first row is the header unless `columns` names the columns.

        The delimiter is by default what a first line `sep=;` says, else the one of , ; tab | by which most rows have as
        many cells as the first; the encoding is UTF-8 or what a byte-order mark says. Raises UserError for a header
        that is not CSV.
        """
        with open_decompressed(path) as file:
            start = bytes(file.read(_HEAD_BYTES))
        encoding, mark = _encoding(start, encoding)
        with io.TextIOWrapper(io.BytesIO(start[mark:]), encoding, errors="replace", newline="") as wrapper:
            text = wrapper.read()
        first = text.splitlines(keepends=True)[0] if text else ""
        said = _SEP_LINE.fullmatch(first)
        if said:
            mark, text = mark + len(first.encode(encoding, "replace")), text[len(first) :]
        delimiter = delimiter or (said[1] if said else _delimiter(text, len(columns), len(start) == _HEAD_BYTES))
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, escapechar=escape)
            cells = next((row for row in reader if row), [])
        except csv.Error as error:
            raise UserError(f"{path}: has no readable header: {error}") from error
        names = list(columns) or distinct_names([cell.strip() for cell in cells])
        return cls(path, delimiter, encoding, mark, names, not columns, escape, said is not None)

    @property
    def splits_by_bytes(self) -> bool:
        """Whether every line end is the byte of one, so that a file without quoted cells can be cut anywhere."""
        return codecs.lookup(self.encoding).name in _LINE_END_IS_ONE_BYTE

    def rows(self, offset: int = 0, longest_cell: int = LONGEST_CELL) -> Iterator[CsvRow]:
        """Yield the rows from byte `offset` on, where a row must begin, by the rules of CSV; blank lines are no rows.

        Cells may be quoted and hold line ends. A row with a cell that is not closed by these rules, or not within
        `longest_cell` characters, says what is wrong. Where the lines that it took are rows by themselves, the quote
        opened no cell: it costs the line that it stands in, and reading goes on with the next line.
        """
        header = self.has_header and offset == 0
        offset = max(offset, self.mark)
        with (
            open_decompressed(self.path, offset) as raw,
            io.TextIOWrapper(raw, self.encoding, self.errors, newline="") as text,
        ):
            lines = _CountedLines(text, self, 4 * longest_cell + len(self.names))
            reader = csv.reader(lines, delimiter=self.delimiter, escapechar=self.escape, strict=True)
            while True:
                lines.begin_row()
                line, start = lines.number, offset + lines.bytes
                try:
                    cells: list[str] | str = _next(reader, longest_cell)
                except StopIteration:
                    return
                except csv.Error as error:
                    cells = self._problem(str(error), lines.row)
                if len(lines.row) > 1 and self._is_stray(cells, lines.row):
                    cells = cells if isinstance(cells, str) else "not CSV: a quote that opens no cell"
                    lines.go_back_to_second()
                if not cells or cells == [""]:
                    continue
                if header:
                    header = False
                    continue
                yield CsvRow(line, start, cells, len(lines.row))

    def _is_stray(self, cells: list[str] | str, lines: Sequence[str]) -> bool:
        """Whether a quote that opens no cell has joined several lines: each of the others is a row by itself.

        Where the joined row looks sound, only in a file with tabs, which the text of a cell does not hold.
        """
        sound = not isinstance(cells, str) and _is_row_of(cells, len(self.names))
        if sound and self.delimiter != "\t":
            return False
        others = lines if sound else [line for line in lines[1 : _HEAD_ROWS + 1] if line.strip()]
        rows = csv.reader(others, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        return sum(_is_row_of(row, len(self.names)) for row in rows) >= 0.9 * len(others)

    def _problem(self, error: str, lines: Sequence[str]) -> str:
        hint = _ESCAPED_QUOTE if self.escape is None and any('\\"' in line for line in lines) else ""
        return f"not CSV: {error}{hint}"

    def unquoted_rows(self, start: int = 0, end: int = -1, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[CsvRow]:
        """Yield the lines that start in a byte range, cut at every delimiter; quotes have no meaning."""
        first = self.mark if self.sep_line else 0
        for line, (offset, raw) in enumerate(read_lines(self.path, start, end, max_line_bytes), 1):
            if isinstance(raw, LongLine):
                yield CsvRow(line, offset, str(raw))
            elif raw.strip() and offset >= first and not (self.has_header and offset == first):
                yield CsvRow(line, offset, raw.decode(self.encoding, self.errors).split(self.delimiter))

    @property
    def errors(self) -> str:
        """What becomes of bytes that are not in the encoding."""
        return "replace" if self.encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"

    @property
    def null_mark(self) -> re.Pattern[str] | None:
        r"""What finds the cells `\N` of a dump whose escape is a backslash: its reader would make them `N`."""
        cell = rf"(?:(?<=^)|(?<={re.escape(self.delimiter)}))\\N(?={re.escape(self.delimiter)}|\s*$)"
        return re.compile(cell) if self.escape == "\\" else None


def _delimiter(text: str, width: int, cut_off: bool) -> str:
    """The delimiter by which most rows have as many cells as the first, or as there are names; `,` where none parts.

    Of several that part all rows alike, the one after which no blank follows, as commas of a sentence have it.
    """
    return max(DELIMITERS, key=lambda delimiter: _consistency(text, delimiter, width, cut_off))


def _consistency(text: str, delimiter: str, width: int, cut_off: bool) -> tuple[float, float, int]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [row for row in islice(reader, _HEAD_ROWS) if row]
    except csv.Error:
        return (0, 0, 0)
    rows = rows[:-1] if cut_off and len(rows) > 2 else rows
    wanted = width or (len(rows[0]) if rows else 0)
    if wanted < 2:
        return (0, 0, 0)
    fitting = [row for row in rows if _is_row_of(row, wanted)]
    blanks = sum(cell.startswith(" ") for row in fitting for cell in row[1:])
    return (len(fitting) / len(rows), -blanks / max(1, len(fitting) * (wanted - 1)), wanted)


def _is_row_of(cells: list[str] | str, width: int) -> bool:
    """Whether a row has as many cells as the table columns; empty ones beyond the last column do not count."""
    return len(cells) >= width and not any(cells[width:])


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return names of columns with a number behind those that come again, `answer (2)`, and one for those without."""
    result: list[str] = []
    for number, name in enumerate(names, 1):
        again = names[: number - 1].count(name) + 1
        result.append(f"{name} ({again})" if name and again > 1 else name or f"column {number}")
    return result


def named_row(names: Sequence[str], cells: list[str] | str) -> dict[str, str] | str:
    """Make a row of named cells, or say what is wrong with it; empty cells beyond the last column are ignored."""
    if isinstance(cells, str):
        return cells
    if not _is_row_of(cells, len(names)):
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
    """Lines of a text with their number and place in the file; those of the row that is read can be read again."""

    def __init__(self, text: io.TextIOWrapper, table: CsvTable, longest: int) -> None:
        self.text, self.encoding, self.errors, self.null_mark = text, table.encoding, table.errors, table.null_mark
        self.longest = longest  # characters of a line that is read
        self.number, self.bytes = 1 + table.sep_line, 0  # of the line that comes next, and of those before it
        self.row: list[str] = []  # lines of the row that is read
        self.again: deque[str] = deque()

    def __iter__(self) -> "_CountedLines":
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else self.text.readline(self.longest)
        if not line:
            raise StopIteration
        self.row.append(line)
        self.number += 1
        self.bytes += self._size(line)
        if len(line) == self.longest and not line.endswith(("\r", "\n")):
            self._pass_over_line()
            raise csv.Error(f"a line of more than {self.longest:,} characters; see `longest_cell`")
        return self.null_mark.sub(r"\\\\N", line) if self.null_mark else line

    def _pass_over_line(self) -> None:
        while part := self.text.readline(_HEAD_BYTES):
            self.bytes += self._size(part)
            if part.endswith(("\r", "\n")):
                break

    def begin_row(self) -> None:
        """Forget the lines of the row before."""
        self.row = []

    def go_back_to_second(self) -> None:
        """Read all lines of the row but the first again."""
        back = self.row[1:]
        self.again.extendleft(reversed(back))
        self.row = self.row[:1]
        self.number -= len(back)
        self.bytes -= sum(map(self._size, back))

    def _size(self, line: str) -> int:
        return len(line.encode(self.encoding, self.errors))


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
