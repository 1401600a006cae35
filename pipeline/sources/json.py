"""JSON documents: arrays, exports wrapped in an object, pretty-printed objects and JSON-LD of schema.org products.

A document is read whole, so memory follows the file; for large data there are JSON lines.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.jsonl import SURROGATE, writable
from pipeline.sources.reading import lines
from pipeline.sources.reading.mapping import MappedSource, Mapping, Row
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, chunks, file_size
from pipeline.sources.reading.sample import FileSample, Settings, mapping_settings
from pipeline.sources.reading.values import UnusableValue, items, lookup, shape
from pipeline.storage.compression import open_decompressed
from pipeline.storage.lines import BOM, excerpt, read_head

MAX_DOCUMENT_BYTES = 2 << 30  # of a document, unpacked
_BLANK = re.compile(r"\s*")
_PRODUCT_TYPES = ("Product", "ProductGroup", "ProductModel", "IndividualProduct", "SomeProducts")
_PRODUCT_IDS = ("sku", "productID", "productGroupID", "gtin", "gtin13", "gtin12", "gtin8", "mpn", "@id", "url")
_PRODUCT_ATTRIBUTES = ("brand", "color", "material", "size", "pattern", "model")


class Json(Paths, MappedSource):
    """Files that hold their rows in one JSON value: an array, an object with the array inside it, or a table of pandas.

    `records` names the field with the rows, as `articles` or `data.items`; of JSON-LD it is `@graph` by default.
    Objects that follow each other, over as many lines as they like, are a row each. Of JSON-LD a `product` is read by
    schema.org's names: sku or another number as id, name, description, category, brand, color and the like.
    """

    type: Literal["json"] = "json"
    records: str | None = Field(
        default=None, description="field that holds the rows, as `articles` or `data.items`; without it the top level"
    )

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """A JSON document whose rows have fields of known roles, or that holds JSON-LD products."""
        if sample.format != "json":
            return []
        is_product = any("Product" in str(row.get("@type")) for row in sample.rows)
        found = [{"kind": "product"}] if is_product else mapping_settings(sample)
        records = {"records": sample.records} if sample.records else {}
        return [{"path": sample.path, **records, **settings} for settings in found]

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """One block a file; raises UserError for a file that begins neither as an array nor as an object."""
        blocks = []
        for file, (display, path) in enumerate(self.inputs(root).items()):
            size, start = file_size(path, display), read_head(path)
            if not start.decode(json.detect_encoding(start), "replace").lstrip().startswith(("[", "{")):
                raise UserError(f"source {display}: is no JSON array or object: {excerpt(start)}")
            blocks.append(lines.single_block(path, size, index, file))
        return blocks

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the rows; lines in messages are numbers of rows, from 1."""

        def take(numbered: tuple[int, Any], parsed: Parsed) -> None:
            number, row = numbered
            parsed.tally.counts["rows"] += 1
            if not isinstance(row, dict):
                parsed.tally.offend(number, "unreadable_row", f"expected an object, got {shape(row)}")
                return
            if self.kind == "product" and "@type" in row:
                if not set(_PRODUCT_TYPES) & set(map(str, items(row["@type"]))):
                    parsed.tally.offend(number, "other_type", f"an object of type {row['@type']}, not a Product")
                    return
                row = schema_org_product(row)
            self.take(row, number, {"source": self.label, "order": block.order(number)}, self.prefix, parsed)

        return chunks(enumerate(self.rows(block.path), 1), take)

    def rows(self, path: str) -> list[Any]:
        """Return the rows of a file; raises UserError where it is not JSON or does not say which value holds them."""
        values = documents(path)
        if self.records is not None:
            try:
                parts = [lookup(value, self.records) if isinstance(value, dict) else None for value in values]
            except UnusableValue as problem:
                raise UserError(f"{path}: records: {problem}") from problem
            lists = [part for part in parts if isinstance(part, list)]
            if not lists or len(lists) < len(parts):
                shown = _described(values[0]) if values else "the file is empty"
                raise UserError(f"{path}: records: {self.records!r} holds no list; {shown}")
            return [row for part in lists for row in part]
        rows: list[Any] = []
        for value in values:
            rows += value if isinstance(value, list) else self._of_object(value, path, alone=len(values) == 1)
        return rows

    def _of_object(self, value: Any, path: str, *, alone: bool) -> list[Any]:
        """Rows of an object: the graph of JSON-LD, or the object itself unless it looks like a wrapper."""
        if not isinstance(value, dict):
            return [value]
        if isinstance(value.get("@graph"), list):
            return list(value["@graph"])
        if alone and (rows := table_rows(value, self)):
            return rows
        wrapped = [name for name, item in value.items() if isinstance(item, list) and _holds_objects(item)]
        if alone and wrapped and "@type" not in value and not any(self.reads(name) for name in value):
            raise UserError(f"{path}: is one object; name the field with the rows, as `records: {wrapped[0]}`")
        return [value]


def table_rows(value: Row, mapping: Mapping) -> list[Row]:
    """Rows of an object that holds a whole table as pandas writes it, or rows by their ids; none for any other object.

    Layouts are `{columns: [...], data: [[...]]}`, columns of cells by number or as lists of more than one cell, and
    `{id: row}`. Columns are told from ids by names that the mapping reads.
    """
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, columns), row, strict=False)) for row in data]
    parts = list(value.values())
    read = [name for name in value if mapping.reads(name)]
    if parts and all(isinstance(part, dict) for part in parts):
        if not read:
            named = (mapping.names("id") or ("id",))[0]
            return [{named: name, **row} for name, row in value.items()] if _reads_all(mapping, parts) else []
        cells = list(parts[0])
        same = len(read) > 1 and all(list(part) == cells for part in parts) and all(map(str.isdigit, cells))
        return [{name: value[name][cell] for name in value} for cell in cells] if same else []
    if len(read) > 1 and all(isinstance(part, list) and len(part) == len(parts[0]) > 1 for part in parts):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*parts, strict=True)]
    return []


def _reads_all(mapping: Mapping, rows: list[Row]) -> bool:
    return all(any(mapping.reads(name) for name in row) for row in rows)


def documents(path: str) -> list[Any]:
    """Return the JSON values of a file, which follow each other; raises UserError where one is broken."""
    with open_decompressed(path) as file:
        raw = file.read(MAX_DOCUMENT_BYTES + 1).removeprefix(BOM)
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise UserError(f"{path}: unpacks to more than {MAX_DOCUMENT_BYTES >> 30} GiB; write it as JSON lines")
    decoder, values = json.JSONDecoder(), []
    try:
        text = raw.decode(json.detect_encoding(raw))
        at = _skip(text, 0)
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            values.append(value)
            at = _skip(text, at)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    return writable(values) if SURROGATE.search(raw) else values


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _holds_objects(values: list[Any]) -> bool:
    return bool(values) and isinstance(values[0], dict)


def _described(value: Any) -> str:
    return f"it has {', '.join(list(value)[:8])}" if isinstance(value, dict) else f"the file is {shape(value)}"


def schema_org_product(row: Row) -> Row:
    """Return a Product of JSON-LD with an id and attributes; its other fields stay as they are."""
    explicit_id = next((row[name] for name in _PRODUCT_IDS if row.get(name)), None)
    attributes = {name: _name(row[name]) for name in _PRODUCT_ATTRIBUTES if row.get(name)}
    for item in items(row.get("additionalProperty")):
        if isinstance(item, dict) and item.get("name"):
            attributes[str(item["name"])] = item.get("value")
    rest = {name: value for name, value in row.items() if name not in (*_PRODUCT_ATTRIBUTES, "additionalProperty")}
    product = rest | {"id": explicit_id, "attributes": attributes}
    if row.get("category"):
        product["category"] = _name(row["category"])
    return {name: value for name, value in product.items() if name not in _PRODUCT_IDS and not name.startswith("@")}


def _name(value: Any) -> Any:
    """Return the name of an object such as a Brand; any other value as it is."""
    return value.get("name") if isinstance(value, dict) and "name" in value else value
