"""Downloads that go on where they stopped, and that are checked against the digest of what was published."""

import gzip
import hashlib
import lzma
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say

from .corpus import Download

KB = 1000
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0
AGENT = "tripletail (python -m scripts.fetch)"


def download(item: Download, folder: Path, mirror: str = "") -> Path:
    """Bring one file into a folder, unless it is there already, and return its path.

    A part that an earlier call left is continued. With a `mirror`, `https://HOST/PATH` is read from `MIRROR/HOST/PATH`.

    Raises:
        UserError: no address of the file answers, or what came is not what was published.

    """
    path = folder / item.name
    if path.exists() and digest(path, item.unpacked) == item.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in (item.url, *item.mirrors):
        address = f"{mirror.rstrip('/')}/{url.split('://', 1)[1]}" if mirror else url
        try:
            receive(address, path, item.size)
        except (OSError, HTTPException) as error:
            failures.append(f"{address}: {reason(error)}")
            continue
        actual = digest(path, item.unpacked)
        if actual == item.sha256:
            return path
        path.unlink()
        failures.append(f"{address}: not the file that was published (sha256 {actual[:12]}, not {item.sha256[:12]})")
    raise UserError(
        f"cannot fetch {item.name}: {'; '.join(failures)}; "
        "see that this machine reaches the address, or name a copy with --mirror, and run the command again"
    )


def receive(address: str, path: Path, size: int) -> None:
    """Write what an address answers into `path`, by way of `path.part`, which the next call continues."""
    part = path.with_name(f"{path.name}.part")
    offset = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": AGENT} | ({"Range": f"bytes={offset}-"} if offset else {})
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            save(answer, part, offset if answer.status == HTTPStatus.PARTIAL_CONTENT else 0, size)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
        raise
    part.replace(path)


def save(answer: HTTPResponse, part: Path, offset: int, size: int) -> None:
    """Append the body of an answer to the part at `offset`, and show how far it is."""
    length = answer.headers.get("Content-Length")
    total = offset + int(length) if length else size
    with Progress(f"fetch: {part.stem}", total // KB, "kB") as progress, part.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        progress.skip(offset // KB)
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            progress.add(file.tell() // KB - progress.done)
    if length and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")


def reason(error: Exception) -> str:
    """Say in a few words why an address gave nothing."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__


def digest(path: Path, unpacked: bool) -> str:
    """Return the sha256 of a file, or, unpacked, of what it holds.

    Of an archive that is: for each member in order of names, its name without the first folder, a zero byte, and the
    sha256 of its bytes.
    """
    try:
        return _digest_content(path) if unpacked else _digest_chunks(_chunks(path))
    except (tarfile.TarError, lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        say(f"fetch: {path.name} cannot be unpacked: {error}")
        return "unreadable"


def _digest_content(path: Path) -> str:
    if path.suffix == ".xz":
        with lzma.open(path) as file:
            return _digest_chunks(iter(lambda: file.read(CHUNK_BYTES), b""))
    total = hashlib.sha256()
    with tarfile.open(path) as archive:
        for member in sorted((member for member in archive if member.isfile()), key=lambda member: member.name):
            content = archive.extractfile(member)
            assert content is not None, "a file has content"
            total.update(member.name.split("/", 1)[-1].encode() + b"\0" + hashlib.sha256(content.read()).digest())
    return total.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _digest_chunks(chunks: Iterator[bytes]) -> str:
    total = hashlib.sha256()
    for chunk in chunks:
        total.update(chunk)
    return total.hexdigest()
