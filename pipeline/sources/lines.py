"""Files of lines, cut into byte ranges: a line belongs to the range in which it starts."""

import gzip
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from pipeline.errors import UserError
from pipeline.files import filesystem
from pipeline.sources.record import Block

BOM = b"\xef\xbb\xbf"


def cut(path: str, size: int, source: int, file: int, block_bytes: int) -> list[Block]:
    """Blocks of a file of lines; a compressed file is one block."""
    if path.endswith(".gz"):
        return [Block(source, file, path, 0, -1, 4 * size)]
    starts = range(0, max(size, 1), block_bytes)
    return [Block(source, file, path, s, min(s + block_bytes, size), min(block_bytes, size - s)) for s in starts]


def read(block: Block) -> Iterator[tuple[int, bytes]]:
    """Byte offset and content of every line that starts in the block, without its end; empty lines too."""
    fs, name = filesystem(block.path)
    with fs.open(name, "rb") as raw:
        if block.end < 0:
            yield from _unpacked(raw, block.path)
            return
        offset = block.start
        if offset:
            raw.seek(offset - 1)
            offset += len(raw.readline()) - 1
        while offset < block.end and (line := raw.readline()):
            yield offset, (line.removeprefix(BOM) if offset == 0 else line).rstrip(b"\r\n")
            offset += len(line)


def _unpacked(raw: Any, path: str) -> Iterator[tuple[int, bytes]]:
    offset = 0
    try:
        with gzip.open(cast(BinaryIO, raw), "rb") as file:
            for line in file:
                yield offset, (line.removeprefix(BOM) if offset == 0 else line).rstrip(b"\r\n")
                offset += len(line)
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{path}: not readable as gzip: {error}") from error


def head(path: str, size: int = 4096) -> bytes:
    """Return the first bytes of a file, to see whether it is what it is said to be."""
    fs, name = filesystem(path)
    with fs.open(name, "rb") as file:
        return bytes(file.read(size)).removeprefix(BOM)


def shown(start: bytes) -> str:
    """Return the beginning of a file as an error message shows it."""
    words = start.decode("utf-8", "replace").split()
    text = " ".join(words)[:40]
    return f"it starts with {text!r}" if text else "it is empty"
