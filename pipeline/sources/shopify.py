"""Shopify's product CSV: the rows of a product's variants and pictures folded into one document."""

from collections.abc import Iterator
from itertools import groupby
from typing import Literal

from pipeline.sources.csv import LONGEST_CELL
from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import Mapping, Row
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, Templated, chunks, file_size
from pipeline.storage.csv_table import CsvTable, named_row

_TREES = ("Product Category", "Google Shopping / Google Product Category", "Type")
_OPTIONS = ("Option1", "Option2", "Option3")
_MAPPING = Mapping(kind="product", html=True)
NumberedRow = tuple[int, Row | str]  # line, row or what is wrong with it


class Shopify(Paths, Templated):
    """Exports of a shop's products: id is the handle, attributes are vendor and all values of each option."""

    type: Literal["shopify"] = "shopify"

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block a file: quoted cells hold line ends, and a product's rows belong together."""
        files = enumerate(self.inputs(root).items())
        return [lines.single_block(path, file_size(path, display), index, file) for file, (display, path) in files]

    def locate(self, path: str, offset: int) -> str:
        """Name a row by its line."""
        return f"{path}:{offset}"

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the products; a variant row without its product is counted."""
        mapping = _MAPPING.model_copy(update={"template": self.template})

        def take(product_rows: list[NumberedRow], parsed: Parsed) -> None:
            good = [(line, row) for line, row in product_rows if isinstance(row, dict)]
            parsed.tally.counts["rows"] += len(product_rows)
            for line, row in product_rows:
                if isinstance(row, str):
                    parsed.tally.offend(line, "unreadable_row", row)
            if not good:
                return
            line, first = good[0]
            if not first.get("Title") or not first["Handle"]:
                message = f"no Handle or Title in the first row of product {first['Handle']!r}"
                parsed.tally.offend(line, "missing_field", message)
                return
            parsed.tally.counts["variants_folded"] += len(good) - 1
            origin = {"source": self.label, "order": block.order(line)}
            mapping.take(fold([row for _, row in good]), line, origin, self.prefix, parsed)

        return chunks(_products(block), take)


def _products(block: Block) -> Iterator[list[NumberedRow]]:
    """Yield the rows of each product, which follow each other under one handle; a broken row is yielded alone."""
    table = CsvTable.open(block.path, ",")
    read = table.rows(longest_cell=LONGEST_CELL)
    rows: Iterator[NumberedRow] = ((line, named_row(table.names, cells)) for line, _, cells in read)
    if "Handle" not in table.names:
        rows = ((line, "no column 'Handle', wanted a product export of Shopify") for line, _, _ in read)
    for _, group in groupby(rows, lambda row: row[1]["Handle"] if isinstance(row[1], dict) else row[0]):
        yield list(group)


def fold(rows: list[Row]) -> Row:
    """Fold the rows of a product into one: texts of the first, each value of each option once, in order."""
    first = rows[0]
    options: dict[str, str] = {"vendor": first.get("Vendor", "")}
    for option in _OPTIONS:
        values = dict.fromkeys(row.get(f"{option} Value", "") for row in rows)
        joined = ", ".join(value for value in values if value and value != "Default Title")
        if joined:
            options[first.get(f"{option} Name") or option] = joined
    category = next((first[name] for name in _TREES if first.get(name)), "")
    return {
        "id": first["Handle"],
        "title": first["Title"],
        "description": first.get("Body (HTML)", ""),
        "category": category,
        "tags": first.get("Tags", ""),
        "attributes": options,
    }
