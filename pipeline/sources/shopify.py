"""Shopify's product CSV: the rows of a product's variants and pictures folded into one document.

The columns are those of exports and, since 2025, of the product template: `Handle` or `URL handle`, `Body (HTML)` or
`Description`, `Option1 Value` or `Option1 value`. The rows of one handle belong together wherever they stand in the
files of the source, as exports are sorted by SKU, edited, or cut into several files.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import Mapping, Row
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import CHUNK_ROWS, Block, Parsed, Templated, file_size
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.storage.csv_table import CsvTable, named_row

_COLUMNS = {  # names that a column has in exports and in templates, in lower case
    "handle": "handle",
    "url handle": "handle",
    "title": "title",
    "body (html)": "description",
    "description": "description",
    "vendor": "vendor",
    "product category": "product_category",
    "google shopping / google product category": "google_category",
    "type": "type",
    "tags": "tags",
}
_OPTIONS = ("option1", "option2", "option3")
_COLUMNS |= {f"{option} {part}": f"{option}_{part}" for option in _OPTIONS for part in ("name", "value")}
_CATEGORIES = ("product_category", "google_category", "type")
_MAPPING = Mapping(kind="product", html=True)


class ExportRow(NamedTuple):
    """A row of an export: which file of the source it stands in, its line, and its cells or what is wrong with it."""

    file: int
    line: int
    cells: Row | str

    @property
    def handle(self) -> str:
        """The handle of a readable row, '' where it has none."""
        return "" if isinstance(self.cells, str) else self.cells.get("handle", "").strip()

    def get(self, column: str) -> str:
        """Return a cell without white space around it, '' for a column that the file lacks."""
        return "" if isinstance(self.cells, str) else self.cells.get(column, "").strip()


class Shopify(Paths, Templated):
    """Exports of a shop's products: id is the handle, attributes are vendor and all values of each option.

    Files without a column for the handle are refused. A row of a handle that no row gives a title is counted.
    """

    type: Literal["shopify"] = "shopify"

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A table with a handle and a title."""
        is_export = sample.has("handle", "title") or sample.has("url handle", "title")
        return [{"path": sample.path}] if sample.format == "csv" and is_export else []

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block a file, which names all files of the source: a product's rows may stand in several."""
        files = list(enumerate(self.inputs(root).items()))
        blocks = []
        for file, (display, path) in files:
            size = file_size(path, display)
            names = _table(path).names
            if "handle" not in {_COLUMNS.get(name.lower()) for name in names}:
                raise UserError(
                    f"source {display}: is not a product export of Shopify: no column 'Handle' or 'URL handle'; "
                    f"it has {' '.join(', '.join(names[:8]).split()) or 'none'}"
                )
            blocks.append(lines.single_block(path, size, index, file))
        paths = "\n".join(path for _, (_, path) in files)
        return [replace(block, extra_files=paths) for block in blocks]

    def locate(self, path: str, offset: int) -> str:
        """Name a row by its line."""
        return f"{path}:{offset}"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the products whose first row with a title stands in the file of the block."""
        mapping = _MAPPING.model_copy(update={"template": self.template})
        rows = list(_rows(block.path, block.file))
        products = _products(rows, block)
        parsed = Parsed()
        parsed.tally.unread.update(name for name in _table(block.path).names if name.lower() not in _COLUMNS)
        for row in rows:
            parsed.tally.rows += 1
            parsed.tally.counts["rows"] += 1
            product = products.get(row.handle, [])
            if isinstance(row.cells, str):
                parsed.tally.offend(row.line, "unreadable_row", row.cells)
            elif not row.handle:
                parsed.tally.offend(row.line, "missing_field", "no Handle")
            elif not any(other.get("title") for other in product):
                message = f"no row of handle {row.handle!r} has a Title"
                parsed.tally.offend(row.line, "missing_field", message)
            elif row in _described_rows(product):
                origin = {"source": self.label, "order": block.order(row.line)}
                mapping.take(fold(row, product), row.line, origin, self.prefix, parsed)
            else:
                parsed.tally.counts["variants_folded"] += 1
            if parsed.tally.rows >= CHUNK_ROWS:
                yield parsed
                parsed = Parsed()
        yield parsed


def _table(path: str) -> CsvTable:
    """An export, which has commas, or one that a spreadsheet saved again with semicolons or tabs."""
    table = CsvTable.open(path, ",")
    is_export = "handle" in {_COLUMNS.get(name.lower()) for name in table.names}
    return table if is_export else CsvTable.open(path)


def _rows(path: str, file: int) -> Iterator[ExportRow]:
    """Yield the rows of a file with the columns that are read."""
    table = _table(path)
    names = [_COLUMNS.get(name.lower(), name) for name in table.names]
    for line, _, cells, _ in table.rows():
        row = named_row(names, cells)
        wanted = row if isinstance(row, str) else {name: row[name] for name in _COLUMNS.values() if row.get(name)}
        yield ExportRow(file, line, wanted)


def _products(rows: list[ExportRow], block: Block) -> dict[str, list[ExportRow]]:
    """Rows of each handle that the block's file names, from all files of the source, in their order."""
    products: dict[str, list[ExportRow]] = defaultdict(list)
    handles = {row.handle for row in rows if row.handle}
    for file, path in enumerate(block.extra_files.split("\n") if block.extra_files else ()):
        for row in rows if file == block.file else _rows(path, file):
            if row.handle in handles:
                products[row.handle].append(row)
    return products


def _described_rows(product: list[ExportRow]) -> list[ExportRow]:
    """Rows that describe a product: the first with its title and description, and each that says another thing.

    A handle is one product of a shop, so that a second row is two products under one id, which a build refuses.
    """
    rows: dict[tuple[str, str], ExportRow] = {}
    for row in product:
        if row.get("title"):
            rows.setdefault((row.get("title"), row.get("description")), row)
    return list(rows.values())


def fold(first: ExportRow, rows: list[ExportRow]) -> Row:
    """Fold the rows of a product into one: texts of the row that has them, each value of each option once, in order."""
    options = {"vendor": first.get("vendor")}
    for option in _OPTIONS:
        name = next((row.get(f"{option}_name") for row in rows if row.get(f"{option}_name")), option.capitalize())
        values = dict.fromkeys(row.get(f"{option}_value") for row in rows)
        joined = ", ".join(value for value in values if value and value != "Default Title")
        if joined:
            options[name] = joined
    return {
        "id": first.handle,
        "title": first.get("title"),
        "description": first.get("description"),
        "category": next((first.get(name) for name in _CATEGORIES if first.get(name)), ""),
        "tags": first.get("tags"),
        "attributes": options,
    }
