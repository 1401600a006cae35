"""Fingerprints follow every byte of a file, and what a store says of it decides only whether it is read again."""

import os
import shutil
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.storage import fingerprints
from pipeline.storage.files import download_folder, object_version
from pipeline.storage.fingerprints import fingerprint_file, fingerprint_files
from tests.support.corpora import stay_in_process


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIPLETAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Small pieces, and which of them were read."""
    read: list[tuple[str, int]] = []
    piece = fingerprints._piece

    def spy(fs, name: str, start: int) -> bytes:
        read.append((Path(name).name, start))
        return piece(fs, name, start)

    monkeypatch.setattr(fingerprints, "PIECE_BYTES", 64)
    monkeypatch.setattr(fingerprints, "READ_BYTES", 7)
    monkeypatch.setattr(fingerprints, "_piece", spy)
    return read


def age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock say that a file was written long ago."""
    monkeypatch.setattr(fingerprints.time, "time_ns", lambda: path.stat().st_mtime_ns + 60_000_000_000)


@given(size=st.integers(1, 300), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_range_of_bytes_is_another_fingerprint(size, data, tmp_path, pieces):
    content = bytearray(data.draw(st.binary(min_size=size, max_size=size)))
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    path = tmp_path / "file"
    path.write_bytes(content)
    before = fingerprint_file(str(path))
    for index in range(start, stop):
        content[index] ^= 0xFF
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(content)
    os.utime(path, ns=times)  # size and time of change are what they were
    assert fingerprint_file(str(path)) != before


@given(content=st.binary(max_size=200), more=st.binary(min_size=1, max_size=3))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_longer_shorter_and_moved_content_differ(content, more, tmp_path, pieces):
    for name, text in {"a": content, "b": content + more, "c": more + content, "d": content}.items():
        (tmp_path / name).write_bytes(text)
    digests = fingerprint_files([str(tmp_path / name) for name in "abcd"])
    assert digests[0] == digests[3] != digests[1]
    assert (digests[2] == digests[0]) == (more + content == content)
    assert (digests[2] == digests[1]) == (more + content == content + more)


def test_an_unchanged_file_is_read_once(tmp_path, pieces, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(200))
    age(path, monkeypatch)
    first = fingerprint_file(str(path))
    assert sorted(pieces) == [("file", 0), ("file", 64), ("file", 128), ("file", 192)]
    assert fingerprint_file(str(path)) == first and len(pieces) == 4
    path.write_bytes(bytes(199) + b"x")
    age(path, monkeypatch)
    assert fingerprint_file(str(path)) != first and len(pieces) == 8


def test_a_file_of_just_now_is_not_remembered(tmp_path, pieces):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    fingerprint_file(str(path))
    fingerprint_file(str(path))
    assert len(pieces) == 2


def test_a_cache_that_cannot_be_read_or_written_costs_time_only(tmp_path, cache, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    age(path, monkeypatch)
    first = fingerprint_file(str(path))
    (cache / "fingerprints.sqlite").write_bytes(b"no data base" * 100)
    assert fingerprint_file(str(path)) == first


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(UserError, match="none: no such file"):
        fingerprint_file(str(tmp_path / "none"))
    with pytest.raises(UserError, match="is a directory"):
        fingerprint_file(str(tmp_path))


class Listing(MemoryFileSystem):
    """A store whose listings name the version of an object in the fields of one provider."""

    protocol = "listing"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    fields: ClassVar[tuple[str, ...]] = ()

    def _fields(self, info: dict) -> dict:
        content = self.store[info["name"]].getvalue() if info["name"] in self.store else b""
        kept = {key: value for key, value in info.items() if key not in ("created", "modified")}
        return kept | {field: f"{field}-{content!r}" for field in self.fields}

    def info(self, path, **kwargs):
        return self._fields(super().info(path, **kwargs))

    def find(self, path, detail=False, **kwargs):
        found = {name: self._fields(info) for name, info in super().find(path, detail=True, **kwargs).items()}
        return found if detail else sorted(found)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("listing://", "memory://"))


@pytest.fixture(
    params=[("ETag",), ("etag", "generation", "updated"), ("etag", "last_modified"), ("mtime",), ()],
    ids=["s3", "google", "azure", "sftp", "nothing"],
)
def listing(request, monkeypatch):
    fsspec.register_implementation("listing", Listing, clobber=True)
    monkeypatch.setattr(Listing, "fields", request.param)
    fs = fsspec.filesystem("listing")
    fs.store.clear()
    return fs


def test_a_retrained_model_of_the_same_size_is_brought_again_from_every_store(listing):
    listing.pipe("listing://bucket/model/model.safetensors", b"old weights")
    first = download_folder("listing://bucket/model")
    assert Path(first, "model.safetensors").read_bytes() == b"old weights"
    assert (download_folder("listing://bucket/model") == first) == bool(Listing.fields)
    listing.pipe("listing://bucket/model/model.safetensors", b"new weights")
    assert Path(download_folder("listing://bucket/model"), "model.safetensors").read_bytes() == b"new weights"


def test_a_changed_object_of_any_store_has_another_fingerprint(listing):
    listing.pipe("listing://bucket/rows.csv", b"relevance 1")
    before = fingerprint_file("listing://bucket/rows.csv")
    listing.pipe("listing://bucket/rows.csv", b"relevance 0")
    assert fingerprint_file("listing://bucket/rows.csv") != before


def test_copies_of_earlier_versions_go_after_a_day(listing, cache):
    listing.pipe("listing://bucket/model/config.json", b"1")
    first = Path(download_folder("listing://bucket/model"))
    listing.pipe("listing://bucket/model/config.json", b"2")
    second = Path(download_folder("listing://bucket/model"))
    assert first.exists() and second.exists()  # another process may have the first one open
    os.utime(first, (0, 0))
    download_folder("listing://bucket/model")
    assert not first.exists()
    shutil.rmtree(cache)


def test_an_entry_without_a_version_has_its_size_alone():
    assert object_version({"name": "a", "size": 3, "type": "file"}) == {"size": "3"}
    assert object_version({"size": 3, "etag": "x"}) != object_version({"size": 3, "etag": "y"})


def test_much_is_digested_by_tasks_to_the_same_end(tmp_path, pieces, monkeypatch):
    names = [str(tmp_path / name) for name in ("a", "b", "c")]
    for number, name in enumerate(names):
        Path(name).write_bytes(os.urandom(1000 * number + 3))
    expected = fingerprint_files(names)
    stay_in_process(monkeypatch)
    monkeypatch.setattr(fingerprints, "CLUSTER_BYTES", 1)
    monkeypatch.setattr(fingerprints, "_recall", lambda keys: {})
    groups = []
    digest_group = fingerprints._digest_group
    monkeypatch.setattr(fingerprints, "_digest_group", lambda *group: groups.append(group) or digest_group(*group))
    assert fingerprint_files(names) == expected
    assert len(groups) == -(-(1 + 16 + 32) // fingerprints.PIECES_A_TASK)
