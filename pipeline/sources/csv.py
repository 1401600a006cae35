"""CSV and other delimited tables of text, in any encoding, with quoted cells that may hold line ends."""

import codecs
import csv
import io
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import Mapping, Row, check_columns
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, chunks, file_size

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONGEST = 1 << 17  # characters of a cell
Cells = tuple[int, int, list[str] | str]  # line in the block, offset in the file, cells or what is wrong


class Csv(Paths, Mapping):
    """A delimited table; columns are matched by name, or by name in lower case with underscores."""

    type: Literal["csv"] = "csv"
    html: bool = True
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="by default the most frequent of , ; tab | in line one"
    )
    encoding: str | None = Field(default=None, description="by default UTF-8, or what a byte-order mark says")
    columns: list[str] = Field(default=[], description="names of the columns where the file has no header")
    quotes: bool = Field(
        default=True, description="cells may be quoted and hold line ends; without, a file is read in parallel"
    )

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str | None) -> str | None:
        try:
            "a".encode(encoding or "utf-8")
        except (LookupError, UnicodeError) as error:
            raise ValueError(f"is no encoding of text: {error}") from error
        return encoding

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut into byte ranges where line ends are row ends, else one block a file."""
        blocks = []
        for file, (display, path) in enumerate(self.inputs(root).items()):
            size = file_size(path, display)
            table = Table.of(path, self.delimiter, self.encoding, self.columns)
            if table.names:
                check_columns(self, table.names, display)
            cut = not self.quotes and table.encoding in ("utf-8-sig", "utf-8", "ascii", "latin-1", "cp1252")
            blocks += (
                lines.cut(path, size, index, file, block_bytes)
                if cut
                else [lines.single_block(path, size, index, file)]
            )
        return blocks

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows that start in the block."""
        table = Table.of(block.path, self.delimiter, self.encoding, self.columns)
        mapped = {*self.fields.values(), *self.attributes}
        names = [name if name in mapped else name.lower().replace(" ", "_") for name in table.names]

        def take(cells: Cells, parsed: Parsed) -> None:
            line, offset, values = cells
            row = record(names, values)
            parsed.tally.counts["rows"] += 1
            if isinstance(row, str):
                parsed.tally.offend(line, "unreadable_row", row)
            else:
                self.take(row, line, {"source": self.label, "order": block.order(offset)}, self.prefix, parsed)

        return chunks(table.rows(block) if self.quotes else table.lines(block), take)


def _next(reader: Iterator[list[str]]) -> list[str]:
    """Return the next row; the limit of a cell's length holds for this call only, as it is global to the process."""
    limit = csv.field_size_limit(_LONGEST)
    try:
        return next(reader)
    finally:
        csv.field_size_limit(limit)


def record(names: list[str], cells: list[str] | str) -> Row | str:
    """Make a row of named cells, or say what is wrong with it; empty cells beyond the last column are ignored."""
    if isinstance(cells, str):
        return cells
    if len(cells) < len(names) or any(cells[len(names) :]):
        return f"{len(cells)} columns, the header has {len(names)}"
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return "holds bytes that are not in the file's encoding; name it by `encoding`, for example cp1252"
    row: Row = {}
    for name, cell in zip(names, cells, strict=False):
        row.setdefault(name, cell)
    return row


class Table:
    """How a file is written: delimiter, encoding and the names of its columns."""

    def __init__(self, delimiter: str, encoding: str, names: list[str], header: bool) -> None:
        self.delimiter, self.encoding, self.names, self.header = delimiter, encoding, names, header

    @classmethod
    def of(cls, path: str, delimiter: str | None, encoding: str | None, columns: list[str]) -> "Table":
        """Look at the beginning of a file; its first row is the header unless `columns` names them."""
        with lines.stream(path) as file:
            start = bytes(file.read(1 << 16))
        encoding = encoding or next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8-sig")
        encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
        with io.TextIOWrapper(io.BytesIO(start), encoding, errors="replace", newline="") as text:
            first = next((line for line in text if line.strip()), "")
            delimiter = delimiter or max(",;\t|", key=first.count)
            text.seek(0)
            try:
                cells = next((row for row in csv.reader(text, delimiter=delimiter) if row), [])
            except csv.Error as error:
                raise UserError(f"source {path}: has no readable header: {error}") from error
        names = columns or [cell.strip() for cell in cells]
        return cls(delimiter, encoding, names, not columns)

    def rows(self, block: Block) -> Iterator[Cells]:
        """Yield the rows of a whole file, by the rules of CSV.

        An unclosed quote costs the rows up to the next quote, or 128 KiB, and is counted: lenient reading would join
        them into one row and say nothing.
        """
        errors = "replace" if self.encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
        with lines.stream(block.path) as raw, io.TextIOWrapper(raw, self.encoding, errors, newline="") as text:
            reader, header = csv.reader(text, delimiter=self.delimiter, strict=True), self.header
            while True:
                line = reader.line_num + 1
                try:
                    cells: list[str] | str = _next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    cells = f"not CSV: {error}"
                if not cells or cells == [""]:
                    continue
                if header:
                    header = False
                    continue
                yield line, line, cells

    def lines(self, block: Block) -> Iterator[Cells]:
        """Yield the lines that start in a block, split at every delimiter."""
        for line, (offset, raw) in enumerate(lines.read(block), 1):
            if not raw.strip() or (self.header and offset == 0):
                continue
            yield line, offset, raw.decode(self.encoding, "surrogateescape").split(self.delimiter)
