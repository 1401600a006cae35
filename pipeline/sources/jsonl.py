"""JSON lines, compressed or not: products, documents, questions with answers, queries, judgments or labelled pairs."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pipeline.sources import lines
from pipeline.sources.mapping import Mapping, Row
from pipeline.sources.paths import Paths
from pipeline.sources.record import Block, Parsed, chunks


class JsonLines(Paths, Mapping):
    """Files with one JSON object a line."""

    type: Literal["jsonl"] = "jsonl"
    html: bool = True

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the objects that start in the block."""
        return objects(block, self, self.label, self.prefix)


def objects(
    block: Block, mapping: Mapping, label: str, prefix: str, rows_of: Callable[[bytes], list[Row] | str] | None = None
) -> Iterator[Parsed]:
    """Read the lines of a block through a mapping; `rows_of` makes rows of a line, or says why it cannot."""
    rows_of = rows_of or decode

    def take(row: tuple[int, tuple[int, bytes]], parsed: Parsed) -> None:
        line, (offset, raw) = row
        if not raw.strip():
            return
        parsed.tally.counts["rows"] += 1
        found = rows_of(raw)
        if isinstance(found, str):
            parsed.tally.offend(line, "unreadable_row", found)
            return
        for one in found:
            mapping.take(one, line, {"source": label, "order": block.order(offset)}, prefix, parsed)

    return chunks(enumerate(lines.read(block), 1), take)


def decode(raw: bytes) -> list[Row] | str:
    """Read one line as a JSON object, or say in words why it is none."""
    try:
        row: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return [row] if isinstance(row, dict) else f"wanted a JSON object, found {type(row).__name__}"
