"""Compressed files, opened as the bytes inside them; which compression it is, the first bytes of the file say."""

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.storage.files import filesystem

_FIRST_BYTES = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
_OPENERS: dict[str, Callable[[Any], Any]] = {
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
    "zstd": lambda raw: io.BufferedReader(pa.input_stream(raw, compression="zstd")),
}
_LONGEST_MARK = 10
_PIECE = 1 << 20


def compression(path: str) -> str | None:
    """Return the compression of a file: gzip, bzip2, xz, zstd, or None; its name does not matter."""
    fs, name = filesystem(path)
    with fs.open(name, "rb") as raw:
        return _compression(raw.read(_LONGEST_MARK))


def _compression(start: bytes) -> str | None:
    return next((name for name, mark in _FIRST_BYTES.items() if mark.match(start)), None)


@contextmanager
def open_decompressed(path: str, offset: int = 0) -> Iterator[BinaryIO]:
    """Open a file for reading from byte `offset` of its decompressed content on.

    Raises UserError for content that cannot be decompressed, here and while the file is read.
    """
    fs, name = filesystem(path)
    with fs.open(name, "rb") as raw:
        packed = _compression(raw.read(_LONGEST_MARK))
        raw.seek(0)
        try:
            opened = _OPENERS[packed](raw) if packed else raw
            # the files of object stores know no `readline` of a bounded length
            file: BinaryIO = opened if packed or "://" not in path else io.BufferedReader(opened)
            _skip(file, offset)
            yield file
        except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowInvalid, OSError) as error:
            if not packed or (isinstance(error, OSError) and error.errno):
                raise
            raise UserError(f"{path}: not readable as {packed}: {error}") from error


def _skip(file: BinaryIO, offset: int) -> None:
    """Go to a byte; a stream that cannot seek is read up to there."""
    if file.seekable():
        file.seek(offset)
        return
    while offset and (piece := file.read(min(offset, _PIECE))):
        offset -= len(piece)
