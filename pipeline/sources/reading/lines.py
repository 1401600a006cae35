"""Files of lines, cut into byte ranges: a line belongs to the range in which it starts; packed files are one range."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.sources.reading.record import Block
from pipeline.storage.files import filesystem

BOM = b"\xef\xbb\xbf"
_PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}


def packing(path: str) -> str | None:
    """Name of the compression that the end of a file's name says."""
    return next((name for end, name in _PACKED.items() if path.endswith(end)), None)


def cut(path: str, size: int, source: int, file: int, block_bytes: int) -> list[Block]:
    """Blocks of a file of lines; a compressed file is one block."""
    if packing(path):
        return [Block(source, file, path, 0, -1, 4 * size)]
    starts = range(0, max(size, 1), block_bytes)
    return [Block(source, file, path, s, min(s + block_bytes, size), min(block_bytes, size - s)) for s in starts]


def single_block(path: str, size: int, source: int, file: int) -> Block:
    """Return one block of a file that cannot be cut."""
    return Block(source, file, path, 0, -1, size * (4 if packing(path) else 1))


def read(block: Block) -> Iterator[tuple[int, bytes]]:
    """Byte offset and content of every line that starts in the block, without its end; empty lines too."""
    with stream(block.path) as raw:
        offset = block.start
        if offset:
            raw.seek(offset - 1)
            offset += len(raw.readline()) - 1
        while (block.end < 0 or offset < block.end) and (line := raw.readline()):
            yield offset, (line.removeprefix(BOM) if offset == 0 else line).rstrip(b"\r\n")
            offset += len(line)


@dataclass(frozen=True)
class Lines:
    """Some whole lines of a block: their bytes, where these begin in the file, and the number of the first line."""

    data: bytes
    offset: int
    line: int

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each line begins in `data`, and where the last one ends [N + 1]."""
        ends = np.flatnonzero(np.frombuffer(self.data, np.uint8) == ord("\n")) + 1
        last = [] if len(ends) and ends[-1] == len(self.data) else [len(self.data)]
        return np.concatenate([[0], ends, last]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def halves(self) -> tuple["Lines", "Lines"]:
        """Cut in two."""
        half = len(self) // 2
        at = int(self.starts[half])
        rest = Lines(self.data[at:], self.offset + at, self.line + half)
        return Lines(self.data[:at], self.offset, self.line), rest

    def only(self, rows: npt.NDArray[np.int64]) -> bytes:
        """Bytes of the lines at some places."""
        if len(rows) == len(self):
            return self.data
        return b"".join(self.data[self.starts[row] : self.starts[row + 1]] for row in rows.tolist())

    def rows(self, rows: npt.NDArray[np.int64] | None = None) -> Iterator[tuple[int, tuple[int, bytes]]]:
        """Number, byte offset in the file and content of every line, or of those at some places; without its end."""
        chosen = range(len(self)) if rows is None else rows.tolist()
        for row in chosen:
            start, end = int(self.starts[row]), int(self.starts[row + 1])
            raw = self.data[start:end].rstrip(b"\r\n")
            at = self.offset + start
            yield self.line + row, (at, raw.removeprefix(BOM) if at == 0 else raw)


def pieces(block: Block, size: int) -> Iterator[Lines]:
    """Lines that start in the block, about `size` bytes at a time; the file's byte-order mark is kept."""
    with stream(block.path) as raw:
        offset, line = block.start, 1
        if offset:
            raw.seek(offset - 1)
            offset += len(raw.readline()) - 1
        while block.end < 0 or offset < block.end:
            data = raw.read(size if block.end < 0 else min(size, block.end - offset))
            if not data:
                return
            if not data.endswith(b"\n"):
                data += raw.readline()
            piece = Lines(data, offset, line)
            yield piece
            offset, line = offset + len(data), line + len(piece)


@contextmanager
def stream(path: str) -> Iterator[BinaryIO]:
    """Open a file, unpacked as its name says; raises UserError, while it is read too, for what cannot be unpacked."""
    fs, name = filesystem(path)
    packed = packing(path)
    with fs.open(name, "rb") as raw:
        try:
            yield _unpacked(raw, packed)
        except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowInvalid, OSError) as error:
            if not packed or (isinstance(error, OSError) and error.errno):
                raise
            raise UserError(f"{path}: not readable as {packed}: {error}") from error


def _unpacked(raw: Any, packed: str | None) -> BinaryIO:
    if packed == "zstd":
        return io.BufferedReader(pa.input_stream(raw, compression="zstd"))
    openers: dict[str | None, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    opened: BinaryIO = openers[packed](raw, "rb") if packed else raw
    return opened


def head(path: str, size: int = 4096) -> bytes:
    """Return the first bytes of a file, to see whether it is what it is said to be."""
    with stream(path) as file:
        return bytes(file.read(size)).removeprefix(BOM)


def excerpt(start: bytes) -> str:
    """Return the beginning of a file as an error message shows it."""
    words = start.decode("utf-8", "replace").split()
    text = " ".join(words)[:40]
    return f"it starts with {text!r}" if text else "it is empty"
