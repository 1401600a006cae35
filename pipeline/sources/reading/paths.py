"""Finds the files of a source: one path, several, or all that match patterns such as `part-*.jsonl.gz`."""

import glob
import re
from typing import Any

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.record import FILE_BITS, Block, SourceConfig, file_size, resolve
from pipeline.storage.files import filesystem

_MAGIC = re.compile(r"[*?\[]")


class Paths(SourceConfig):
    """A source of files; the order of its rows is that of the paths, then of the names that match."""

    path: str | list[str] = Field(min_length=1, description="a file, a pattern, or a list of both")

    def inputs(self, root: str) -> dict[str, str]:
        """Return the files, in order."""
        return expand(self.path, root)

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut every file into byte ranges."""
        files = enumerate(self.inputs(root).items())
        cuts = [lines.cut(path, file_size(path, display), index, file, block_bytes) for file, (display, path) in files]
        return [block for blocks in cuts for block in blocks]


def expand(path: str | list[str], root: str) -> dict[str, str]:
    """Return the files of paths and patterns, {name to show: path to open}; a file named twice is read once."""
    files: dict[str, str] = {}
    seen: set[str] = set()
    for item in [path] if isinstance(path, str) else path:
        for display, name in _matches(item, root).items():
            fs, full_path = filesystem(name)
            if (full := fs.unstrip_protocol(full_path)) not in seen:
                seen.add(full)
                files[display] = name
    if len(files) > 1 << FILE_BITS:
        raise UserError(
            f"source {path}: {len(files):,} files, at most {1 << FILE_BITS:,}; make several sources of them"
        )
    return files


def _matches(path: str, root: str) -> dict[str, str]:
    full = resolve(root, path)
    magic = _MAGIC.search(path)
    if not magic:
        return {path: full}
    fs, pattern = filesystem(full)
    if fs.isfile(pattern):
        return {path: full}
    hidden = pattern.rpartition("/")[2].startswith(".")
    names = sorted(name for name in fs.glob(_literal_folders(fs, pattern)) if fs.isfile(name))
    names = [name for name in names if hidden or not name.rpartition("/")[2].startswith(".")]
    if not names:
        raise UserError(f"source {path}: no file matches")
    fixed = pattern[: len(pattern) - len(path) + magic.start()].rpartition("/")[0]
    return {f"{path}#{name.removeprefix(fixed).lstrip('/')}": fs.unstrip_protocol(name) for name in names}


def _literal_folders(fs: Any, pattern: str) -> str:
    """A pattern whose leading folders are taken as they are where they exist: a name may hold brackets."""
    folder, slash, name = pattern.rpartition("/")
    while folder and not fs.isdir(folder):
        folder, _, last = folder.rpartition("/")
        name = f"{last}/{name}"
    return f"{glob.escape(folder)}{slash}{name}"
