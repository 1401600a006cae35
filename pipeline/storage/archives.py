"""Archives and other files that hold no lines, told by their first bytes; members of zip archives, within bounds."""

import re
import zipfile
from functools import lru_cache

from pipeline.core.errors import UserError
from pipeline.storage.files import filesystem

MAX_RATIO, RATIO_FROM_BYTES = 200, 64 << 20  # a member above both, as text never is, unpacks without end
_HEAD_BYTES = 512
_ZIP = re.compile(rb"PK(?:\x03\x04|\x05\x06)")
_CONTAINERS = {  # what a file is, and what to do with it
    "a 7z archive; unpack it": re.compile(rb"7z\xbc\xaf\x27\x1c"),
    "a RAR archive; unpack it": re.compile(rb"Rar!\x1a\x07"),
    "a tar archive; unpack it": re.compile(rb".{257}ustar", re.DOTALL),
    "a file of an old Office; save it as .xlsx or CSV": re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    "a PDF; extract its text": re.compile(rb"%PDF-\d"),
    "an SQLite database; export its tables": re.compile(rb"SQLite format 3\x00"),
    "a Parquet file; use `type: parquet`": re.compile(rb"PAR1"),
    "an Arrow file; write it as Parquet": re.compile(rb"ARROW1\x00\x00"),
}


def container(path: str) -> str | None:
    """Return what a file is by its first bytes, where it holds no text, with what to do; None for any other file."""
    start = _start(path)
    if _ZIP.match(start):
        return "a zip archive inside another; unpack it" if "::" in path else "a zip archive; unpack it"
    return kind_of(start)


def kind_of(start: bytes) -> str | None:
    """Return what a file is that begins so, where it holds no text; None for any other."""
    return next((name for name, mark in _CONTAINERS.items() if mark.match(start)), None)


def is_zip(path: str) -> bool:
    """Whether a file is a zip archive by its first bytes; a workbook of Excel is one too."""
    fs, name = filesystem(path)
    return _is_zip(path, fs.ukey(name) if "file" in fs.protocol else "")


@lru_cache(maxsize=1 << 16)
def _is_zip(path: str, stamp: str) -> bool:
    return _ZIP.match(_start(path)) is not None


def _start(path: str) -> bytes:
    fs, name = filesystem(path)
    with fs.open(name, "rb") as file:
        return bytes(file.read(_HEAD_BYTES))


def zip_members(path: str) -> list[str]:
    """Return the names of the files in a zip archive, in order; folders are left out.

    Raises UserError for a workbook of Excel, and for an archive that `check_members` refuses.
    """
    names = check_members(path)
    if "[Content_Types].xml" in names:
        raise UserError(f"{path}: is a workbook of Excel; use `type: xlsx`")
    return names


def check_members(path: str) -> list[str]:
    """Return the names of the files in a zip archive; a workbook of Excel is one.

    Raises UserError for an archive that is broken, for members that are encrypted, and for such that would unpack to
    more than `MAX_RATIO` times their size: nothing of them is read.
    """
    fs, name = filesystem(path)
    try:
        with fs.open(name, "rb") as file, zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UserError(f"{path}: is a zip archive by its first bytes, and not readable as one: {error}") from error
    for member in members:
        if member.flag_bits & 1:
            raise UserError(f"{path}: {member.filename} is encrypted; unpack the archive")
        ratio = member.file_size // max(1, member.compress_size)
        if member.file_size > RATIO_FROM_BYTES and ratio > MAX_RATIO:
            raise UserError(f"{path}: {member.filename} unpacks to {ratio:,} times its size; it is not read")
    return sorted(member.filename for member in members)


def member_path(path: str, member: str) -> str:
    """Path under which a member of a zip archive is opened as any other file."""
    return f"zip://{member}::{path}"
