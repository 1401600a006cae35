"""JSON lines, compressed or not: products, documents, questions with answers, queries, judgments or labelled pairs."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from pipeline.core.errors import UserError
from pipeline.sources.reading import json_columns, lines
from pipeline.sources.reading.columnar import Batch
from pipeline.sources.reading.mapping import MappedSource, Mapping, Row
from pipeline.sources.reading.paths import Paths
from pipeline.sources.reading.record import Block, Parsed, chunks, file_size, take_long_line
from pipeline.sources.reading.sample import FileSample, Settings, mapping_settings
from pipeline.storage.json_lines import parse_object
from pipeline.storage.lines import Lines, check_utf8, read_head

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_LINES = re.compile(rb"\s*(?:\[\s*\{|\{\s*\n)")  # the beginning of an array of objects, or of one over lines
PIECE_BYTES, LEAST_LINES = 8 << 20, 256
NumberedLine = tuple[int, tuple[int, bytes]]


class JsonLines(Paths, MappedSource):
    """Files with one JSON object a line."""

    type: Literal["jsonl"] = "jsonl"

    @classmethod
    def recognise(cls, sample: FileSample) -> list[Settings]:
        """JSON lines with fields of known roles."""
        if sample.format != "json lines":
            return []
        return [{"path": sample.path, **settings} for settings in mapping_settings(sample)]

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut every file into byte ranges; raises UserError for a JSON array and for an object over several lines."""
        for display, path in self.inputs(root).items():
            file_size(path, display)
            check_utf8(path)
            if _NOT_LINES.match(read_head(path)):
                raise UserError(f"source {display}: is one JSON value over its lines, not one a line; use `type: json`")
        return super().blocks(root, index, block_bytes)

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the objects that start in the block."""
        return objects(block, self, self.label, self.prefix)


def objects(
    block: Block,
    mapping: Mapping,
    label: str,
    prefix: str,
    rows_of: Callable[[bytes], Row | list[Row] | str] | None = None,
) -> Iterator[Parsed]:
    """Read the lines of a block through a mapping; `rows_of` makes rows of a line, or says why it cannot."""

    def take(row: NumberedLine, parsed: Parsed) -> None:
        line, (offset, raw) = row
        if not raw.strip():
            return
        parsed.tally.counts["rows"] += 1
        items = (rows_of or parse_object)(raw)
        if isinstance(items, str):
            parsed.tally.offend(line, "unreadable_row", items)
            return
        if SURROGATE.search(raw):
            items = writable(items)
        for item in items if isinstance(items, list) else [items]:
            mapping.take(item, line, {"source": label, "order": block.order(offset)}, prefix, parsed)

    def by_columns(piece: Lines) -> Iterator[Parsed]:
        """Read by columns what can be, the rest line by line; a broken line slows down only the lines around it."""
        sound = json_columns.sound(piece)
        rows = np.flatnonzero(sound)
        schema = json_columns.types(piece, mapping) if len(rows) else None
        if schema is None:
            yield from chunks(piece.rows(), take)
            return
        table = json_columns.table(piece.only(rows), len(rows), schema)
        if table is None and len(piece) > LEAST_LINES:
            for half in piece.halves():
                yield from by_columns(half)
            return
        orders = block.order(0) + piece.offset + piece.starts[rows]
        read = table is not None and Batch(mapping, table, piece.line + rows, orders, label, prefix).take()
        if read:
            parsed, odd = read
            parsed.tally.unread |= json_columns.unread(piece, mapping)
            yield parsed
            sound[rows[odd]] = False
        yield from chunks(piece.rows(np.flatnonzero(~sound) if read else None), take)

    if rows_of is not None:
        return chunks(enumerate(lines.read(block), 1), take)
    return _by_pieces(block, by_columns)


def _by_pieces(block: Block, by_columns: Callable[[Lines], Iterator[Parsed]]) -> Iterator[Parsed]:
    """Read the pieces of a block; a line that is too long is one by itself."""
    for piece in lines.pieces(block, PIECE_BYTES):
        if piece.too_long is None:
            yield from by_columns(piece)
        else:
            parsed = Parsed()
            parsed.tally.rows += 1
            take_long_line(piece.line, piece.too_long, parsed)
            yield parsed


def writable(value: Any) -> Any:
    """Return a value without halves of surrogate pairs in its texts, which JSON can escape and UTF-8 cannot write."""
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode()
    if isinstance(value, dict):
        return {writable(name): writable(item) for name, item in value.items()}
    return [writable(item) for item in value] if isinstance(value, list) else value
