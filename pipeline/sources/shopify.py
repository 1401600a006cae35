"""Shopify's product CSV: the rows of a product's variants and pictures folded into one document."""

from collections.abc import Iterator
from itertools import groupby
from typing import Literal

from pipeline.sources.csv import Table, record
from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import Mapping, Row
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, Templated, chunks, existing

_TREES = ("Product Category", "Google Shopping / Google Product Category", "Type")
_OPTIONS = ("Option1", "Option2", "Option3")
_MAPPING = Mapping(kind="product", html=True)
Held = tuple[int, Row | str]  # line, row or what is wrong with it


class Shopify(Paths, Templated):
    """Exports of a shop's products: id is the handle, attributes are vendor and all values of each option."""

    type: Literal["shopify"] = "shopify"

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block a file: quoted cells hold line ends, and a product's rows belong together."""
        files = enumerate(self.inputs(root).items())
        return [lines.whole(path, existing(path, shown), index, file) for file, (shown, path) in files]

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the products; a variant row without its product is counted."""
        mapping = _MAPPING.model_copy(update={"template": self.template})

        def take(held: list[Held], parsed: Parsed) -> None:
            good = [(line, row) for line, row in held if isinstance(row, dict)]
            parsed.tally.counts["rows"] += len(held)
            for line, row in held:
                if isinstance(row, str):
                    parsed.tally.offend(line, "unreadable_row", row)
            if not good:
                return
            line, first = good[0]
            if not first.get("Title") or not first["Handle"]:
                shown = f"no Handle or Title in the first row of product {first['Handle']!r}"
                parsed.tally.offend(line, "missing_field", shown)
                return
            parsed.tally.counts["variants_folded"] += len(good) - 1
            place = {"source": self.label, "order": block.order(line)}
            mapping.take(fold([row for _, row in good]), line, place, self.prefix, parsed)

        return chunks(_products(block), take)


def _products(block: Block) -> Iterator[list[Held]]:
    """Rows of a file, those of one handle together as they follow each other; a broken row stands alone."""
    table = Table.of(block.path, ",", None, [])
    rows: Iterator[Held] = ((line, record(table.names, cells)) for line, _, cells in table.rows(block))
    if "Handle" not in table.names:
        rows = ((line, "no column 'Handle', wanted a product export of Shopify") for line, _, _ in table.rows(block))
    for _, held in groupby(rows, lambda held: held[1]["Handle"] if isinstance(held[1], dict) else held[0]):
        yield list(held)


def fold(rows: list[Row]) -> Row:
    """One product of its rows: texts of the first, every value of each option once, in order."""
    first = rows[0]
    options: dict[str, str] = {"vendor": first.get("Vendor", "")}
    for option in _OPTIONS:
        values = dict.fromkeys(row.get(f"{option} Value", "") for row in rows)
        shown = ", ".join(value for value in values if value and value != "Default Title")
        if shown:
            options[first.get(f"{option} Name") or option] = shown
    category = next((first[name] for name in _TREES if first.get(name)), "")
    return {
        "id": first["Handle"],
        "title": first["Title"],
        "description": first.get("Body (HTML)", ""),
        "category": category,
        "tags": first.get("Tags", ""),
        "attributes": options,
    }
