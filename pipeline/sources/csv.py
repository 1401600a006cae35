"""CSV and other delimited tables of text, in any encoding, with quoted cells that may hold line ends."""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import MappedSource, check_columns
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, chunks, file_size
from pipeline.sources.reading.sample import FileSample, Settings, mapping_settings
from pipeline.storage.csv_table import LONGEST_CELL, CsvRow, CsvTable, named_row

_JSON = re.compile(r"\[?\s*\{\s*\"")  # the beginning of an object, or of an array of objects
_EXPORTS = {  # columns by which a shop's export is known
    "woocommerce": {"type", "name", "parent"},
    "shopify": {"handle", "title", "option1 name", "option1 value"},
}


class Csv(Paths, MappedSource):
    """A delimited table; columns are matched by name, or by name in lower case with underscores."""

    type: Literal["csv"] = "csv"
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="by default what a line `sep=;` says, else the one of , ; tab | that parts all rows alike",
    )
    escape: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="what stands before a quote inside a cell, as \\ in dumps of MySQL; by default it is doubled",
    )
    longest_cell: int = Field(
        default=LONGEST_CELL, ge=1, description="characters of a quoted cell; a longer one is an unreadable row"
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

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A delimited table with columns of known roles."""
        if sample.format != "csv":
            return []
        return [{"path": sample.path, **settings} for settings in mapping_settings(sample)]

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut into byte ranges where line ends are row ends, else one block a file."""
        blocks: list[Block] = []
        for file, (display, path) in enumerate(self.inputs(root).items()):
            size = file_size(path, display)
            table = CsvTable.open(path, self.delimiter, self.encoding, self.columns, self.escape)
            if table.names[:1] and _JSON.match(table.names[0]):
                raise UserError(f"source {display}: holds JSON, not a table; use `type: jsonl` or `type: json`")
            if table.names:
                check_columns(self, table.names, display)
                self._check_export(table.names, display)
            if table.splits_by_bytes and not self.quotes:
                blocks += lines.cut(path, size, index, file, block_bytes)
            else:
                blocks.append(lines.single_block(path, size, index, file))
        return blocks

    def _check_export(self, names: list[str], display: str) -> None:
        """Refuse a shop's export: its variants are no products, its lists of categories no path."""
        if self.kind != "product" or self.fields:
            return
        columns = {name.strip().lower() for name in names}
        for shop, exported in _EXPORTS.items():
            if exported <= columns:
                raise UserError(
                    f"source {display}: has the columns of a product export, whose variants and categories only "
                    f"`type: {shop}` reads right; to read it as a plain table all the same, name columns by `fields`"
                )

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows that start in the block."""
        table = CsvTable.open(block.path, self.delimiter, self.encoding, self.columns, self.escape)
        names = [name if self.reads(name) else name.lower().replace(" ", "_") for name in table.names]

        def take(numbered: CsvRow, parsed: Parsed) -> None:
            line, offset, cells, count = numbered
            row = named_row(names, cells)
            parsed.tally.counts["rows"] += 1
            if isinstance(row, str):
                parsed.tally.counts["lines_of_unreadable_rows"] += count
                parsed.tally.offend(line, "unreadable_row", row + (f"; it takes {count:,} lines" if count > 1 else ""))
            else:
                self.take(row, line, {"source": self.label, "order": block.order(offset)}, self.prefix, parsed)

        if self.quotes:
            return chunks(table.rows(longest_cell=self.longest_cell), take)
        return chunks(table.unquoted_rows(block.start, block.end, block.max_line_bytes), take)
