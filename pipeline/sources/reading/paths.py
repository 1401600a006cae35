"""Finds the files of a source: one path, several, or all that match patterns such as `part-*.jsonl.gz`."""

import glob
import re
from typing import Any, ClassVar

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.record import FILE_BITS, Block, SourceConfig, file_size, resolve
from pipeline.storage.archives import is_zip, member_path, zip_members
from pipeline.storage.files import filesystem

_MAGIC = re.compile(r"[*?\[]")


class Paths(SourceConfig):
    """A source of files; the order of its rows is that of the paths, then of the names that match.

    The members of a zip archive are files like any other.
    """

    path: str | list[str] = Field(min_length=1, description="a file, a pattern, or a list of both")
    reads_archives: ClassVar[bool] = False  # whether a zip archive is one file of the format, and not several

    def inputs(self, root: str) -> dict[str, str]:
        """Return the files, in order."""
        return expand(self.path, root, unpack=not self.reads_archives)

    def blocks(self, root: str, index: int, block_bytes: int) -> list[Block]:
        """Cut every file into byte ranges."""
        files = enumerate(self.inputs(root).items())
        cuts = [lines.cut(path, file_size(path, display), index, file, block_bytes) for file, (display, path) in files]
        return [block for blocks in cuts for block in blocks]

    def left_out(self, root: str) -> list[str]:
        """Return the hidden files that the patterns match and that are not read."""
        return hidden_files(self.path, root, unpack=not self.reads_archives)


def expand(path: str | list[str], root: str, *, unpack: bool = True) -> dict[str, str]:
    """Return the files of paths and patterns, {name to show: path to open}; a file named twice is read once.

    Hidden files are left out of patterns and of zip archives, of which `unpack` takes the members.
    """
    files: dict[str, str] = {}
    seen: set[str] = set()
    for item in _as_list(path):
        for display, name in _sorted_out(item, root, unpack=unpack)[0].items():
            fs, full_path = filesystem(name)
            if (full := name if "::" in name else fs.unstrip_protocol(full_path)) not in seen:
                seen.add(full)
                files[display] = name
    if len(files) > 1 << FILE_BITS:
        raise UserError(
            f"source {path}: {len(files):,} files, at most {1 << FILE_BITS:,}; make several sources of them"
        )
    return files


def hidden_files(path: str | list[str], root: str, *, unpack: bool = True) -> list[str]:
    """Return the files that `expand` leaves out: those of a Mac's finder and others whose name begins with a dot."""
    hidden = [name for item in _as_list(path) for name in _sorted_out(item, root, unpack=unpack)[1]]
    return list(dict.fromkeys(hidden))


def _sorted_out(item: str, root: str, *, unpack: bool) -> tuple[dict[str, str], list[str]]:
    """The files of a path or pattern that are read, and the names of the hidden ones.

    Raises UserError where all that match are hidden.
    """
    matched = _matches(item, root)
    read = {name: full for name, full in matched.items() if not _is_hidden(name)}
    if not read:
        raise UserError(f"source {item}: no file matches but hidden ones, which are left out")
    hidden = [name for name in matched if name not in read]
    if unpack:
        members = _members(read)
        read = {name: full for name, full in members.items() if not (full.startswith("zip://") and _is_hidden(name))}
        hidden += [name for name in members if name not in read]
    return read, hidden


def _as_list(path: str | list[str]) -> list[str]:
    return [path] if isinstance(path, str) else path


def _members(files: dict[str, str]) -> dict[str, str]:
    """The files with those that are zip archives replaced by their members."""
    result: dict[str, str] = {}
    for display, path in files.items():
        if not (_exists(path) and is_zip(path)):
            result[display] = path
            continue
        result |= {f"{display}#{member}": member_path(path, member) for member in zip_members(path)}
    return result


def _exists(path: str) -> bool:
    fs, name = filesystem(path)
    return bool(fs.isfile(name))


def _is_hidden(display: str) -> bool:
    """Whether a file that a pattern matched, or a folder below the pattern's own, begins with a dot or is `__MACOSX`.

    A file that is named itself is none, and none is where the pattern asks for them.
    """
    pattern, matched, inside = display.rpartition("#")
    if not matched or pattern.rpartition("/")[2].startswith("."):
        return False
    return any(part.startswith(".") or part == "__MACOSX" for part in inside.split("/"))


def _matches(path: str, root: str) -> dict[str, str]:
    """All files of a path or pattern; those of a pattern are shown with it before a `#`."""
    full = resolve(root, path)
    magic = _MAGIC.search(path)
    if not magic:
        return {path: full}
    fs, pattern = filesystem(full)
    if fs.isfile(pattern):
        return {path: full}
    names = sorted(name for name in fs.glob(_literal_folders(fs, pattern)) if fs.isfile(name))
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
