"""Files of lines, read from any byte range: a line belongs to the range in which it starts."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import UserError
from pipeline.storage.compression import open_decompressed

BOM = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")  # of UTF-16 and UTF-32
MAX_LINE_BYTES = 64 << 20  # a packed file may hold a line without end
_SKIPPED_BYTES = 1 << 20


class LongLine(bytes):
    """Stands for a line that is too long to be read: bytes that are neither blank nor text in UTF-8."""

    limit: int

    @classmethod
    def beyond(cls, limit: int) -> "LongLine":
        """Return what stands for a line of more than `limit` bytes."""
        line = cls(b"\xff")
        line.limit = limit
        return line

    def __str__(self) -> str:
        return f"a line of more than {self.limit:,} bytes; see `max_line_bytes`"


def read_lines(
    path: str, start: int = 0, end: int = -1, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Yield the byte offset and the content of each line that starts in [start, end); end -1 is the end of the file.

    Line ends and the file's byte-order mark are removed; empty lines are yielded too. Offsets count the bytes of the
    decompressed content. A line of more than `max_line_bytes` is passed over and yielded as a `LongLine`.
    """
    with open_decompressed(path, max(0, start - 1)) as file:
        offset = _next_start(file, start)
        while (end < 0 or offset < end) and (line := file.readline(max_line_bytes + 1)):
            if len(line) > max_line_bytes:
                yield offset, LongLine.beyond(max_line_bytes)
                offset += len(line) if line.endswith(b"\n") else len(line) + _skip_line(file)
                continue
            yield offset, (line.removeprefix(BOM) if offset == 0 else line).rstrip(b"\r\n")
            offset += len(line)


def check_utf8(path: str) -> None:
    """Raise UserError for a file of lines that begins with the byte-order mark of UTF-16 or UTF-32."""
    if read_head(path).startswith(_OTHER_MARKS):
        raise UserError(
            f"{path}: is UTF-16 or UTF-32 by its first bytes; save it as UTF-8 (`iconv -f utf-16 -t utf-8`)"
        )


def _next_start(file: BinaryIO, start: int) -> int:
    """Move a file that stands one byte before `start` to the first line that starts there or later; return its byte."""
    return start + _skip_line(file) - 1 if start else 0


def _skip_line(file: BinaryIO) -> int:
    """Move a file behind the end of the line in which it stands; return how many bytes that is."""
    size = 0
    while part := file.readline(_SKIPPED_BYTES):
        size += len(part)
        if part.endswith(b"\n"):
            break
    return size


@dataclass(frozen=True)
class Lines:
    """Consecutive whole lines of a file: their bytes, where these begin in the file, and the first line's number."""

    data: bytes
    offset: int
    line: int
    too_long: LongLine | None = None  # stands for the only line, of which nothing was read

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
        """Return the bytes of some of the lines, by their index."""
        if len(rows) == len(self):
            return self.data
        return b"".join(self.data[self.starts[row] : self.starts[row + 1]] for row in rows.tolist())

    def rows(self, rows: npt.NDArray[np.int64] | None = None) -> Iterator[tuple[int, tuple[int, bytes]]]:
        """Yield number, byte offset in the file and content of every line, or of some by index; without line ends."""
        chosen = range(len(self)) if rows is None else rows.tolist()
        for row in chosen:
            start, end = int(self.starts[row]), int(self.starts[row + 1])
            raw = self.data[start:end].rstrip(b"\r\n")
            at = self.offset + start
            yield self.line + row, (at, raw.removeprefix(BOM) if at == 0 else raw)


def read_pieces(path: str, start: int, end: int, size: int, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Lines]:
    """Yield the lines that start in [start, end) in pieces of about `size` bytes; a byte-order mark stays in them.

    A line of more than `max_line_bytes` is a piece by itself, without its bytes.
    """
    with open_decompressed(path, max(0, start - 1)) as file:
        offset, line = _next_start(file, start), 1
        while end < 0 or offset < end:
            data, skipped = file.read(size if end < 0 else min(size, end - offset)), 0
            if not data:
                return
            if not data.endswith(b"\n"):
                room = max_line_bytes + 1 - (len(data) - data.rfind(b"\n") - 1)
                data += file.readline(room) if room > 0 else b""
                skipped = 0 if data.endswith(b"\n") else _skip_line(file)
            piece = Lines(data, offset, line)
            yield from _without_long_lines(piece, max_line_bytes, unfinished=skipped > 0)
            offset, line = offset + len(data) + skipped, line + len(piece)


def _without_long_lines(piece: Lines, max_line_bytes: int, *, unfinished: bool) -> Iterator[Lines]:
    """Yield the runs of lines that are not too long, and each that is by itself; the last may not be read whole."""
    lengths = np.diff(piece.starts)
    long = np.flatnonzero(lengths > max_line_bytes).tolist()
    if unfinished and len(piece) - 1 not in long:
        long.append(len(piece) - 1)
    if not long:
        yield piece
        return
    for first, row in zip([0, *(row + 1 for row in long)], [*long, len(piece)], strict=True):
        if row > first:
            at, end = int(piece.starts[first]), int(piece.starts[row])
            yield Lines(piece.data[at:end], piece.offset + at, piece.line + first)
        if row < len(piece):
            at = piece.offset + int(piece.starts[row])
            yield Lines(b"", at, piece.line + row, LongLine.beyond(max_line_bytes))


def line_at(path: str, offset: int) -> int:
    """Return the number of the line that begins at a byte of the decompressed content."""
    line = 1
    with open_decompressed(path) as file:
        while offset > 0 and (piece := file.read(min(offset, 1 << 20))):
            line += piece.count(b"\n")
            offset -= len(piece)
    return line


def read_head(path: str, size: int = 4096) -> bytes:
    """Return the first bytes of a file without its byte-order mark, to see what it is."""
    with open_decompressed(path) as file:
        return bytes(file.read(size)).removeprefix(BOM)


def excerpt(start: bytes) -> str:
    """Describe the beginning of a file for an error message."""
    text = " ".join(start.decode("utf-8", "replace").split())[:40]
    return f"it starts with {text!r}" if text else "it is empty"
