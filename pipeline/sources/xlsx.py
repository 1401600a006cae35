"""Workbooks of Excel (.xlsx): one sheet, whose first row that is not empty names the columns.

A number that is whole is read as one (an id 7 is no 7.0), a date as `2024-05-31`, and of a formula the value that was
last computed. Needs openpyxl, the extra `excel`.
"""

import datetime
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.reading.mapping import MappedSource, Row, check_columns
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, chunks, file_size
from pipeline.sources.reading.sample import FileSample, Settings, mapping_settings
from pipeline.storage.archives import check_members, is_zip
from pipeline.storage.files import filesystem

_BROKEN = (  # what openpyxl raises on files that break its format
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, SyntaxError),
    *(KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError),
)


class Xlsx(Paths, MappedSource):
    """A sheet of each workbook; columns are matched as those of a CSV file are."""

    type: Literal["xlsx"] = "xlsx"
    sheet: str | None = Field(default=None, description="name of the sheet; by default the first")
    reads_archives: ClassVar[bool] = True

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A workbook with columns of known roles."""
        if sample.format != "xlsx":
            return []
        return [{"path": sample.path, **settings} for settings in mapping_settings(sample)]

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block a file; raises UserError for a file that is no workbook, or that lacks a column of `fields`."""
        blocks = []
        for file, (display, path) in enumerate(self.inputs(root).items()):
            size = file_size(path, display)
            if not is_zip(path):
                raise UserError(f"source {display}: is no workbook of Excel (.xlsx)")
            check_members(path)
            names = next((row for _, row in sheet_rows(path, self.sheet)), [])
            check_columns(self, list(map(_name, names)), display)
            blocks.append(Block(index, file, path, 0, -1, size))
        return blocks

    def locate(self, path: str, offset: int) -> str:
        """Name a row by its number in the sheet."""
        return f"{path} row {offset}"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows below the header; empty ones are none."""
        rows = sheet_rows(block.path, self.sheet)
        _, header = next(rows, (0, []))
        names = [name if self.reads(name) else name.lower().replace(" ", "_") for name in map(_name, header)]

        def take(numbered: tuple[int, list[Any]], parsed: Parsed) -> None:
            number, cells = numbered
            parsed.tally.counts["rows"] += 1
            row: Row = {}
            for name, cell in zip(names, cells, strict=False):
                if name:
                    row.setdefault(name, cell)
            self.take(row, number, {"source": self.label, "order": block.order(number)}, self.prefix, parsed)

        return chunks(rows, take)


def sheet_rows(path: str, sheet: str | None = None) -> Iterator[tuple[int, list[Any]]]:
    """Yield number and plain values of the rows of a sheet that are not empty; raises UserError where it is broken."""
    with _workbook(path) as book:
        if sheet is not None and sheet not in book.sheetnames:
            raise UserError(f"{path}: has no sheet {sheet!r}; it has {', '.join(book.sheetnames)}")
        chosen = book[sheet] if sheet is not None else book.worksheets[0]
        for number, cells in enumerate(chosen.values, 1):
            values = [_plain(cell) for cell in cells]
            if any(value not in (None, "") for value in values):
                yield number, values


@contextmanager
def _workbook(path: str) -> Iterator[Any]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UserError(f"{path}: Excel files need openpyxl; pip install 'tripletail[excel]'") from error
    fs, name = filesystem(path)
    with fs.open(name, "rb") as file:
        try:
            yield load_workbook(file, read_only=True, data_only=True)
        except UserError:
            raise
        except _BROKEN as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path}: not readable as a workbook of Excel: {problem}") from error


def _name(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _plain(cell: Any) -> Any:
    """The value of a cell as text or number: whole numbers without a fraction, dates as ISO 8601 writes them."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    if isinstance(cell, datetime.date | datetime.time | datetime.timedelta):
        return cell.isoformat() if not isinstance(cell, datetime.timedelta) else str(cell)
    return cell
