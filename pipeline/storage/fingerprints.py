"""Digests of the content of files: every byte counts, and an unchanged file is read once.

Resume, caches and comparisons rest on these digests, so nothing but content decides them. Pieces of 64 MiB are digested
side by side. A digest is remembered under what the store says of a file (size, time of change and inode here, or the
store's own version of an object), and used again as long as that is the same.
"""

import hashlib
import os
import posixpath
import sqlite3
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core import ray_session, tasks
from pipeline.core.errors import UserError
from pipeline.storage.files import cache_directory, filesystem, object_version

PIECE_BYTES, READ_BYTES = 64 << 20, 4 << 20
CLUSTER_BYTES, PIECES_A_TASK = 4 << 30, 4  # from this much on, pieces are digested by tasks on all nodes
RACY_NS = 2_000_000_000  # a file changed this shortly before may change again within the same tick of its clock


def fingerprint_file(path: str) -> str:
    """Digest of the content of a file, whole, as 24 hexadecimal digits of SHA-256.

    Raises UserError where there is no such file.
    """
    return fingerprint_files([path])[0]


def fingerprint_files(paths: Sequence[str]) -> list[str]:
    """Digest of the content of each file, in order; several files and the pieces of a large one are read in parallel.

    From `CLUSTER_BYTES` on that are not remembered, this starts a session and reads on all nodes.

    Raises UserError for the first file that is missing or cannot be read.
    """
    opened = [(path, *filesystem(path)) for path in paths]
    infos = [_info(path, fs, name) for path, fs, name in opened]
    keys = [_key(fs, name, info) for (_, fs, name), info in zip(opened, infos, strict=True)]
    remembered = _recall([key for key in keys if key])
    todo = [index for index, key in enumerate(keys) if not key or key not in remembered]
    sizes = {index: int(infos[index]["size"] or 0) for index in todo}
    starts = [(index, start) for index, size in sizes.items() for start in range(0, max(1, size), PIECE_BYTES)]
    digests = _digest_pieces([(paths[index], start) for index, start in starts], sum(sizes.values()))
    pieces: dict[int, list[bytes]] = {}
    for (index, _), digest in zip(starts, digests, strict=True):
        pieces.setdefault(index, []).append(digest)
    fresh = {index: _combine(parts) for index, parts in pieces.items()}
    _remember({key: fresh[index] for index in todo if (key := keys[index]) and _is_stable(*opened[index], key)})
    return [fresh[index] if index in fresh else remembered[str(keys[index])] for index in range(len(paths))]


def fingerprint_folder(root: str, names: Iterable[str]) -> list[list[str]]:
    """Name and digest of each of the named files below a folder, in order of their names."""
    ordered = sorted(names)
    return [
        list(pair) for pair in zip(ordered, fingerprint_files([posixpath.join(root, n) for n in ordered]), strict=True)
    ]


def _info(path: str, fs: Any, name: str) -> dict[str, Any]:
    try:
        info = dict(fs.info(name))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    if info.get("type") == "directory":
        raise UserError(f"{path}: is a directory, expected a file")
    return info


def _digest_pieces(pieces: Sequence[tuple[str, int]], size: int) -> list[bytes]:
    """Digest pieces (path, first byte) of files, together of `size` bytes, in order: here, or many of them on Ray."""
    if size < CLUSTER_BYTES:
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
            opened = {path: filesystem(path) for path in {path for path, _ in pieces}}
            return list(threads.map(lambda piece: _piece(*opened[piece[0]], piece[1]), pieces))
    ray_session.start()
    groups = [pieces[first : first + PIECES_A_TASK] for first in range(0, len(pieces), PIECES_A_TASK)]
    parts = dict(tasks.results(_digest_group, list(enumerate(groups))))
    return [digest for number in range(len(groups)) for digest in parts[number]]


def _digest_group(number: int, pieces: Sequence[tuple[str, int]]) -> tuple[int, list[bytes]]:
    return number, [_piece(*filesystem(path), start) for path, start in pieces]


def _piece(fs: Any, name: str, start: int) -> bytes:
    """SHA-256 of one piece of a file."""
    sha, left = hashlib.sha256(), PIECE_BYTES
    with fs.open(name, "rb") as file:
        file.seek(start)
        while left and (chunk := file.read(min(READ_BYTES, left))):
            sha.update(chunk)
            left -= len(chunk)
    return sha.digest()


def _combine(pieces: list[bytes]) -> str:
    return hashlib.sha256(b"".join(pieces)).hexdigest()[:24]


def _key(fs: Any, name: str, info: dict[str, Any]) -> str:
    """Name under which a file's digest is remembered; empty where the store says too little to know it again."""
    if "file" in fs.protocol:
        stat = Path(name).stat()
        return (
            f"{Path(name).resolve()} {stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        )
    marks = object_version(info)
    return f"{fs.unstrip_protocol(name)} {sorted(marks.items())}" if len(marks) > 1 else ""


def _is_stable(path: str, fs: Any, name: str, key: str) -> bool:
    """Whether a digest may be remembered: the file did not change while it was read, nor so shortly before that a
    later change within the same tick of the clock would not show in its times.
    """
    info = _info(path, fs, name)
    changed = max(float(info.get("mtime") or 0), float(info.get("created") or 0)) if "ino" in info else 0.0
    return _key(fs, name, info) == key and time.time_ns() - changed * 1e9 > RACY_NS


def _store() -> sqlite3.Connection:
    connection = sqlite3.connect(cache_directory() / "fingerprints.sqlite", timeout=30)
    connection.execute("CREATE TABLE IF NOT EXISTS fingerprints (file TEXT PRIMARY KEY, digest TEXT NOT NULL)")
    return connection


def _recall(keys: Sequence[str]) -> dict[str, str]:
    """Digests that were remembered; none where the cache cannot be read, which costs reading the files again."""
    try:
        with closing(_store()) as connection:
            ask = partial(connection.execute, "SELECT digest FROM fingerprints WHERE file = ?")
            rows = {key: ask((key,)).fetchone() for key in keys}
    except (sqlite3.Error, OSError):
        return {}
    return {key: row[0] for key, row in rows.items() if row}


def _remember(digests: dict[str, str]) -> None:
    if not digests:
        return
    try:
        with closing(_store()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO fingerprints VALUES (?, ?)", list(digests.items()))
    except (sqlite3.Error, OSError):
        return  # a cache that cannot be written costs time, not truth
