"""JSON lines, plain or gzip: products, documents, questions with answers, queries, judgments or labelled pairs."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.files import filesystem
from pipeline.sources import lines
from pipeline.sources.mapping import Mapping
from pipeline.sources.record import CHUNK_ROWS, Block, Parsed, SourceConfig, existing, resolve


class JsonLines(SourceConfig, Mapping):
    """Files with one JSON object a line; `path` may be a pattern such as `products-*.jsonl.gz`."""

    type: Literal["jsonl"] = "jsonl"
    path: str
    html: bool = True

    def inputs(self, root: str) -> dict[str, str]:
        """Return the files of the pattern, in order."""
        path = resolve(root, self.path)
        if not any(mark in self.path for mark in "*?["):
            return {self.path: path}
        fs, pattern = filesystem(path)
        names = sorted(fs.glob(pattern))
        if not names:
            raise UserError(f"source {self.path}: no file matches")
        return {f"{self.path}#{name.rsplit('/', 1)[-1]}": fs.unstrip_protocol(name) for name in names}

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut into byte ranges."""
        files = enumerate(self.inputs(root).items())
        cuts = [lines.cut(path, existing(path, shown), index, file, block_bytes) for file, (shown, path) in files]
        return [block for blocks in cuts for block in blocks]

    def parse(self, block: Block) -> Iterator[Parsed]:
        """Read the objects that start in the block."""
        yield from objects(block, self, self.label, self.prefix)


def objects(block: Block, mapping: Mapping, label: str, prefix: str) -> Iterator[Parsed]:
    """Read the JSON objects of a block through a mapping, in chunks."""
    parsed = Parsed()
    for line, (offset, raw) in enumerate(lines.read(block), 1):
        parsed.tally.rows += 1
        if raw.strip():
            parsed.tally.counts["rows"] += 1
            row = decode(raw)
            if isinstance(row, str):
                parsed.tally.offend(line, "unreadable_row", row)
            else:
                mapping.take(row, line, {"source": label, "order": block.order(offset)}, prefix, parsed)
        if parsed.tally.rows >= CHUNK_ROWS:
            yield parsed
            parsed = Parsed()
    yield parsed


def decode(raw: bytes) -> dict[str, Any] | str:
    """Read one line as a JSON object, or say in words why it is none."""
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return row if isinstance(row, dict) else f"wanted a JSON object, found {type(row).__name__}"
