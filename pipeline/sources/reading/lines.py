"""Blocks of files of lines: byte ranges of plain files, and one block of a compressed one."""

from collections.abc import Iterator

from pipeline.core.errors import UserError
from pipeline.sources.reading.record import Block
from pipeline.storage.archives import container, kind_of
from pipeline.storage.compression import compression
from pipeline.storage.lines import Lines, read_head, read_lines, read_pieces

_EXPANSION = 4  # bytes of text in a byte of a compressed file, about


def cut(path: str, size: int, source: int, file: int, block_bytes: int) -> list[Block]:
    """Cut a file of lines into blocks; a compressed file and a member of an archive are one block.

    Raises UserError for a file that holds no text by its first bytes, as an archive does.
    """
    if compression(path) or "::" in path:
        return [single_block(path, size, source, file)]
    _check_text(path)
    starts = range(0, max(size, 1), block_bytes)
    return [Block(source, file, path, s, min(s + block_bytes, size), min(block_bytes, size - s)) for s in starts]


def single_block(path: str, size: int, source: int, file: int) -> Block:
    """Return one block of a file that cannot be cut; raises UserError for one that holds no text."""
    _check_text(path)
    return Block(source, file, path, 0, -1, size * (_EXPANSION if compression(path) else 1))


def _check_text(path: str) -> None:
    if found := container(path) or (compression(path) and kind_of(read_head(path))):
        raise UserError(f"source {path}: is no text but {found}")


def read(block: Block) -> Iterator[tuple[int, bytes]]:
    """Yield byte offset and content of every line that starts in the block, without its end; empty lines too.

    One that is longer than the block allows is a `LongLine`.
    """
    return read_lines(block.path, block.start, block.end, block.max_line_bytes)


def pieces(block: Block, size: int) -> Iterator[Lines]:
    """Yield the lines that start in the block, about `size` bytes at a time."""
    return read_pieces(block.path, block.start, block.end, size, block.max_line_bytes)
