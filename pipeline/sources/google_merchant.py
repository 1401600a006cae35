"""Google Merchant product feeds: RSS or Atom in XML, or a delimited table, by the product data specification."""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

from lxml import etree

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import Mapping, Row
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, Templated, chunks, file_size
from pipeline.sources.reading.sample import FileSample, Settings
from pipeline.storage.compression import open_decompressed
from pipeline.storage.csv_table import CsvTable, named_row
from pipeline.storage.lines import excerpt, read_head

_ATTRIBUTES = ("brand", "color", "size", "material", "pattern", "gender", "age_group", "product_highlight")
_TEXTS = ("id", "title", "description", "item_group_id", "product_type", "google_product_category", "product_detail")
_FIELDS: dict[str, str | None] = {"id": "id", "title": "title", "text": "description", "group": "item_group_id"}
_MAPPING = Mapping(kind="product", html=True, fields={**_FIELDS, "category": "category", "tags": None})
_ITEMS = ("item", "entry")
LONGEST_ITEM = 64 << 20  # bytes of XML from one item to the next
MAX_ELEMENTS = 10_000  # of an item
_NO_ITEM = "no item of a feed"
NumberedRow = tuple[int, Row | str]  # line, row or what is wrong with it


class GoogleMerchant(Paths, Templated):
    """Feeds of a shop's products: `item_group_id` is the group, so that variants are never each other's negatives.

    The category is `product_type`, else `google_product_category` where it is a path and not a number.
    """

    type: Literal["google_merchant"] = "google_merchant"

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A feed in XML, or a table with id, title, link and description."""
        names = {_plain_name(column) for column in sample.columns}
        if sample.format not in ("xml", "csv") or not {"id", "title", "link", "description"} <= names:
            return []
        return [{"path": sample.path}]

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block a file; raises UserError for a file that is neither XML nor a table with id and title."""
        blocks = []
        for file, (display, path) in enumerate(self.inputs(root).items()):
            size, start = file_size(path, display), read_head(path)
            if not _is_xml(start):
                names = [_plain_name(name) for name in CsvTable.open(path).names]
                if not {"id", "title"} <= set(names):
                    raise UserError(
                        f"source {display}: is no Google Merchant feed: neither XML nor a table with the columns id "
                        f"and title; {excerpt(start)}"
                    )
            blocks.append(lines.single_block(path, size, index, file))
        return blocks

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the items of a feed."""
        mapping = _MAPPING.model_copy(update={"template": self.template})
        rows = _items(block.path) if _is_xml(read_head(block.path)) else _table(block.path)

        def take(numbered: NumberedRow, parsed: Parsed) -> None:
            line, row = numbered
            parsed.tally.counts["rows"] += 1
            if isinstance(row, str):
                parsed.tally.offend(line, "unreadable_row", row)
            else:
                origin = {"source": self.label, "order": block.order(line)}
                mapping.take(product(row), line, origin, self.prefix, parsed)

        return chunks(rows, take)


def product(row: Row) -> Row:
    """Return an item's texts with its category and its attributes; what is not read keeps its name."""
    types = row.get("product_type") or row.get("google_product_category")
    first = types[0] if isinstance(types, list) else types
    attributes: Row = {name: row[name] for name in _ATTRIBUTES if row.get(name)}
    for detail in _as_list(row.get("product_detail")):
        name, value = _detail(detail)
        if name:
            attributes[name] = value
    category = None if first is None or str(first).strip().isdigit() else first
    rest = {name: value for name, value in row.items() if name not in (*_ATTRIBUTES, *_TEXTS[4:])}
    return rest | {"category": category, "attributes": attributes}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _detail(detail: Any) -> tuple[str, str]:
    """Name and value of a product detail: an element of XML, or `section:name:value` in a table."""
    if isinstance(detail, dict):
        return str(detail.get("attribute_name") or ""), str(detail.get("attribute_value") or "")
    parts = str(detail).split(":", 2)
    return (parts[1].strip(), parts[2].strip()) if len(parts) == 3 else ("", "")


def _is_xml(start: bytes) -> bool:
    return start.lstrip().startswith(b"<")


def _plain_name(name: str) -> str:
    """Return a column's name as the specification has it: in lower case with underscores, without `g:`."""
    return re.sub(r"\s+", "_", name.strip().lower()).removeprefix("g:")


def _table(path: str) -> Iterator[NumberedRow]:
    table = CsvTable.open(path)
    names = [_plain_name(name) for name in table.names]
    for line, _, cells, _ in table.rows():
        row = named_row(names, cells)
        yield line, row if isinstance(row, str) else {name: cell for name, cell in row.items() if cell.strip()}


def _items(path: str) -> Iterator[NumberedRow]:
    """Yield number and fields of every item; entities are not resolved, and broken XML raises UserError.

    So does an item, or what lies between two of them, that does not end: a small file may unpack to any size. Of an
    item of too many elements that is told. Elements are forgotten as they end, also those outside of items.
    """
    number, depth, size = 0, 0, 0  # of items, of elements inside one another within an item, of elements in the item
    with open_decompressed(path) as packed:
        file = _Counted(packed, path)
        try:
            for event, element in etree.iterparse(file, ("start", "end"), resolve_entities=False, no_network=True):
                is_item = isinstance(element.tag, str) and local_name(element) in _ITEMS
                if event == "start":
                    depth, size = (depth + 1, size + 1) if depth else (int(is_item), 0)
                    continue
                depth = max(0, depth - 1)
                if depth and size <= MAX_ELEMENTS:
                    continue
                if is_item and not depth:
                    number, file.since = number + 1, 0
                    long = f"an item of more than {MAX_ELEMENTS:,} elements"
                    yield number, long if size > MAX_ELEMENTS else _fields(element) or _NO_ITEM
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
        except etree.XMLSyntaxError as error:
            raise UserError(f"{path}: not readable as XML: {' '.join(str(error).split())}") from error


class _Counted:
    """A file that counts what was read of it since the last item, and ends in a UserError where that is too much."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self.file, self.path, self.since = file, path, 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.since += len(data)
        if self.since > LONGEST_ITEM:
            raise UserError(
                f"{self.path}: {LONGEST_ITEM >> 20} MiB without the end of an item; it is no feed of products"
            )
        return data


def local_name(element: Any) -> str:
    """Name of an element without its namespace, also where the prefix of one is not declared."""
    return str(element.tag).rpartition("}")[2].rpartition(":")[2]


def _fields(item: Any) -> Row:
    """Return the fields of an element: texts, objects of elements with elements, lists where a name repeats."""
    row: Row = {}
    for child in item:
        if not isinstance(child.tag, str):
            continue
        name = local_name(child).lower()
        value: Any = _fields(child) if len(child) else (child.text or "").strip()
        if value:
            row[name] = value if name not in row else [*_as_list(row[name]), value]
    return row
