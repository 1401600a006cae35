r"""WooCommerce's product CSV: variations folded into their product, cells as the exporter escapes them.

The exporter writes a line end in a text as the two characters `\n` and a comma in a list as `\,`.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import Mapping, Row
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import CHUNK_ROWS, Block, Parsed, Templated, file_size
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.storage.csv_table import CsvTable, named_row

_COLUMNS = ("id", "type", "sku", "name", "short description", "description", "categories", "tags", "brands", "parent")
_ATTRIBUTE = re.compile(r"attribute (\d+) (?:name|value\(s\))")
_COMMA = re.compile(r"(?<!\\),")
_MAPPING = Mapping(kind="product", html=True)
NumberedRow = tuple[int, Row | str]  # line, row or what is wrong with it


class WooCommerce(Paths, Templated):
    """Exports of a shop's products: the id is the product's ID, and its SKU where the export has no IDs.

    A text is the short description and the description, attributes are the brands and all values of each attribute;
    of several categories the first counts. A variation without its product in the file is counted.
    """

    type: Literal["woocommerce"] = "woocommerce"

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A table with the columns Type, Name and Description."""
        is_export = sample.has("type", "name", "description")
        return [{"path": sample.path}] if sample.format == "csv" and is_export else []

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block a file; raises UserError for a table without the columns of an export."""
        blocks = []
        for file, (display, path) in enumerate(self.inputs(root).items()):
            size, names = file_size(path, display), CsvTable.open(path).names
            missing = [name for name in ("Type", "Name") if name.lower() not in map(str.lower, names)]
            if missing:
                raise UserError(
                    f"source {display}: is not a product export of WooCommerce: no column {missing[0]!r}; "
                    f"it has {' '.join(', '.join(names[:8]).split()) or 'none'}; export in English, or read it by "
                    "`type: csv, kind: product` with `fields`"
                )
            blocks.append(lines.single_block(path, size, index, file))
        return blocks

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the products of a file, each with its variations."""
        mapping = _MAPPING.model_copy(update={"template": self.template})
        rows = list(_rows(block.path))
        parents = {key for _, row in rows if isinstance(row, dict) and not is_variation(row) for key in _keys(row)}
        variations: dict[str, list[Row]] = defaultdict(list)
        for _, row in rows:
            if isinstance(row, dict) and is_variation(row):
                variations[row.get("parent", "")].append(row)
        parsed = Parsed()
        parsed.tally.unread.update(name for name in CsvTable.open(block.path).names if not _is_read(name.lower()))
        for line, row in rows:
            parsed.tally.rows += 1
            parsed.tally.counts["rows"] += 1
            if isinstance(row, str):
                parsed.tally.offend(line, "unreadable_row", row)
            elif not is_variation(row):
                of_product = [variation for key in _keys(row) for variation in variations.get(key, [])]
                origin = {"source": self.label, "order": block.order(line)}
                mapping.take(fold(row, of_product), line, origin, self.prefix, parsed)
            elif row.get("parent") in parents:
                parsed.tally.counts["variants_folded"] += 1
            else:
                message = f"its product {row.get('parent', '')!r} is not in the file"
                parsed.tally.offend(line, "variation_without_product", message)
            if parsed.tally.rows >= CHUNK_ROWS:
                yield parsed
                parsed = Parsed()
        yield parsed


def is_variation(row: Row) -> bool:
    """Whether a row is a variation of a product: its types are a list, as in `variation, virtual`."""
    return "variation" in [part.strip() for part in row.get("type", "").lower().split(",")]


def _rows(path: str) -> Iterator[NumberedRow]:
    """Yield the rows of a file with the columns that are read, names in lower case, without empty cells."""
    table = CsvTable.open(path)
    names = [name.lower() for name in table.names]
    for line, _, cells, _ in table.rows():
        row = named_row(names, cells)
        if isinstance(row, dict):
            row = {name: cell.strip() for name, cell in row.items() if _is_read(name) and cell.strip()}
        yield line, row


def _is_read(name: str) -> bool:
    return name in _COLUMNS or _ATTRIBUTE.fullmatch(name) is not None


def _keys(row: Row) -> list[str]:
    """Return what the variations of a product call it: `id:10`, or its SKU."""
    return [key for key in (f"id:{row['id']}" if "id" in row else "", row.get("sku", "")) if key]


def fold(product: Row, variations: list[Row]) -> Row:
    """Return a product with the values of its own attributes and of its variations, each once, in order."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for row in (product, *variations):
        for number in sorted({int(match[1]) for name in row if (match := _ATTRIBUTE.fullmatch(name))}):
            if name := row.get(f"attribute {number} name"):
                values[name] |= dict.fromkeys(listed(row.get(f"attribute {number} value(s)", "")))
    brands = ", ".join(listed(product.get("brands", "")))
    attributes = {"brand": brands, **{name: ", ".join(parts) for name, parts in values.items()}}
    texts = (product.get(name, "").replace("\\n", "\n") for name in ("short description", "description"))
    return {
        "id": product.get("id") or product.get("sku"),
        "title": product.get("name"),
        "description": "\n".join(filter(None, texts)),
        "category": next(iter(listed(product.get("categories", ""))), ""),
        "tags": listed(product.get("tags", "")),
        "attributes": attributes,
    }


def listed(cell: str) -> list[str]:
    r"""Return the items of a list in a cell: parted by commas, a comma in one written as `\,`."""
    return [part for item in _COMMA.split(cell) if (part := item.replace("\\,", ",").strip())]
