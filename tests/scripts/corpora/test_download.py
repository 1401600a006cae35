"""Downloads from a server on this machine: whole, continued, refused, damaged and out of reach."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from scripts.tripletail.corpora.corpus import Download
from scripts.tripletail.corpora.download import digest, download

CONTENT = bytes(range(256)) * 20_000


@dataclass
class Server:
    """What the server holds, by path, how many bytes it sends before it hangs up, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            byte_range = self.headers.get("Range")
            state.requests.append((self.path, byte_range))
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(byte_range.removeprefix("bytes=").rstrip("-")) if byte_range and state.ranges else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: state.cut_after])

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def item(content: bytes = CONTENT, mirrors: tuple[str, ...] = ()) -> Download:
    sha256 = hashlib.sha256(content).hexdigest()
    return Download("a.bin", "https://example.org/x/a.bin", sha256, len(content), mirrors=mirrors)


def test_a_file_is_fetched_once(server: Server, tmp_path: Path):
    server.files["/example.org/x/a.bin"] = CONTENT
    path = download(item(), tmp_path / "in", server.address)
    assert path.read_bytes() == CONTENT
    assert download(item(), tmp_path / "in", server.address) == path
    assert len(server.requests) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_off_goes_on(server: Server, tmp_path: Path, ranges: bool):
    server.files["/example.org/x/a.bin"] = CONTENT
    server.cut_after, server.ranges = 1_500_000, ranges
    with pytest.raises(UserError, match=r"connection ended after 1,500,000 of 5,120,000 bytes.*run the command again"):
        download(item(), tmp_path, server.address)
    server.cut_after = None
    assert download(item(), tmp_path, server.address).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=1500000-"


def test_a_part_that_is_too_long_begins_anew(server: Server, tmp_path: Path):
    server.files["/example.org/x/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    with pytest.raises(UserError, match="416"):
        download(item(), tmp_path, server.address)
    assert download(item(), tmp_path, server.address).read_bytes() == CONTENT


def test_another_file_than_the_published_one_is_refused(server: Server, tmp_path: Path):
    server.files["/example.org/x/a.bin"] = b"a login page"
    with pytest.raises(UserError, match="not the file that was published"):
        download(item(), tmp_path, server.address)
    assert not list(tmp_path.iterdir())


def test_the_next_address_is_tried(server: Server, tmp_path: Path):
    server.files["/archive.org/old/a.bin"] = CONTENT
    mirrors = ("https://archive.org/old/a.bin",)
    assert download(item(mirrors=mirrors), tmp_path, server.address).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/example.org/x/a.bin", "/archive.org/old/a.bin"]


def test_without_a_network_one_line_says_so(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"cannot fetch a.bin: http://127.0.0.1:1/.*Connection refused.*--mirror"
    ) as error:
        download(item(), tmp_path, "http://127.0.0.1:1")
    assert "\n" not in str(error.value)


def make_archive(path: Path, folder: str, files: dict[str, bytes], mtime: int) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime = len(content), mtime
            archive.addfile(member, io.BytesIO(content))
    return path


def test_the_digest_of_an_archive_is_of_what_it_holds(tmp_path: Path):
    files = {"a/1.xml": b"one", "a/2.xml": b"two"}
    first = make_archive(tmp_path / "1.tar.gz", "top-1", files, 1)
    second = make_archive(tmp_path / "2.tar.gz", "top-2", dict(reversed(files.items())), 2)
    assert digest(first, unpacked=False) != digest(second, unpacked=False)
    assert digest(first, unpacked=True) == digest(second, unpacked=True)
    for other in ({"a/1.xml": b"one"}, {"a/1.xml": b"one", "a/2.xml": b"tw0"}, {"a/1.xml": b"one", "b/2.xml": b"two"}):
        assert digest(make_archive(tmp_path / "3.tar.gz", "top", other, 1), True) != digest(first, True)


def test_a_damaged_archive_is_not_the_published_one(tmp_path: Path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"no archive")
    assert digest(path, unpacked=True) == "unreadable"
