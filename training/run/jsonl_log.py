"""A log of JSON lines: appended to on local disks, rewritten now and then on stores that cannot append."""

import json
import time
from pathlib import Path
from typing import Any

from pipeline.storage import files

REWRITE_S = 20.0  # seconds between rewrites, where the file cannot be appended to


class JsonlLog:
    """A log with one writer, and readers that see its complete lines."""

    def __init__(self, path: str) -> None:
        self.fs, self.name = files.filesystem(path)
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        self.buffer: list[dict[str, Any]] | None = None  # every row, where the file cannot be appended to
        self.written = 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Return every row written so far, without a last line that is incomplete."""
        return [json.loads(line) for line in self.read(0)[0].splitlines()]

    def read(self, start: int) -> tuple[str, int]:
        """Return the complete lines from byte `start` on, and the offset of their end."""
        if not self.fs.exists(self.name):
            return "", 0
        content: bytes = self.fs.cat_file(self.name, start=start) if self.size() > start else b""
        complete = content[: content.rfind(b"\n") + 1]
        return complete.decode(), start + len(complete)

    def cut(self, offset: int) -> bool:
        """Whether the file has been rewritten since `offset` was its end: it is shorter, or no line ends there."""
        if self.size() < offset:
            return True
        return offset > 0 and bytes(self.fs.cat_file(self.name, start=offset - 1, end=offset)) != b"\n"

    def size(self) -> int:
        """Size of the file in bytes."""
        return int(self.fs.size(self.name)) if self.fs.exists(self.name) else 0

    def replace(self, rows: list[dict[str, Any]]) -> None:
        """Replace the content of the file by these rows in one step: a kill leaves the old content or the new one."""
        self.buffer = None if self.local else list(rows)
        self.fs.makedirs(self.name.rsplit("/", 1)[0], exist_ok=True)
        self._write(rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row."""
        if self.local:
            self.fs.makedirs(self.name.rsplit("/", 1)[0], exist_ok=True)
            with self.fs.open(self.name, "ab") as file:
                file.write(_line(row))
            return
        self.buffer = self.rows() if self.buffer is None else self.buffer
        self.buffer.append(row)
        if time.monotonic() - self.written >= REWRITE_S:
            self._write(self.buffer)

    def flush(self) -> None:
        """Write buffered rows."""
        if self.buffer is not None:
            self._write(self.buffer)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        content = b"".join(map(_line, rows))
        if self.local:
            partial = Path(f"{self.name}.partial")
            partial.write_bytes(content)
            partial.replace(self.name)
        else:
            self.fs.pipe_file(self.name, content)
        self.written = time.monotonic()


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()
