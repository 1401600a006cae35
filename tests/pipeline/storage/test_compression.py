"""Compression is told by the first bytes of a file, never by its name."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.storage.compression import compression, open_decompressed

TEXT = b"".join(b"line %d\n" % number for number in range(1000))


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data))


PACKERS: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.gz", "a"])
def test_a_file_is_unpacked_by_its_content(tmp_path: Path, kind: str | None, name: str):
    path = tmp_path / name
    path.write_bytes(PACKERS[kind](TEXT))
    assert compression(str(path)) == kind
    for offset in (0, 7, 5000, len(TEXT)):
        with open_decompressed(str(path), offset) as file:
            assert file.read() == TEXT[offset:]


@pytest.mark.parametrize("kind", PACKERS)
def test_an_empty_file_of_each_kind_is_empty(tmp_path: Path, kind: str | None):
    path = tmp_path / "a"
    path.write_bytes(PACKERS[kind](b""))
    with open_decompressed(str(path)) as file:
        assert file.read() == b""


def test_text_that_begins_like_bzip2_is_text(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"BZh9 is a magic number\n")
    assert compression(str(path)) is None


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if kind])
def test_a_file_that_breaks_off_is_refused_by_name(tmp_path: Path, kind: str):
    path = tmp_path / "a.jsonl"
    path.write_bytes(PACKERS[kind](TEXT)[:-20])
    with pytest.raises(UserError, match=rf"a\.jsonl: not readable as {kind}"), open_decompressed(str(path)) as file:
        file.read()
