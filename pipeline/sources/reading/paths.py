"""The files of a source: one path, several, or all that match patterns such as `part-*.jsonl.gz`."""

import re

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.sources.reading import lines
from pipeline.sources.reading.record import FILE_BITS, Block, SourceConfig, existing, resolve
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
        cuts = [lines.cut(path, existing(path, shown), index, file, block_bytes) for file, (shown, path) in files]
        return [block for blocks in cuts for block in blocks]


def expand(path: str | list[str], root: str) -> dict[str, str]:
    """Files of paths and patterns: the name for people, and the path to open; a file named twice is read once."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for one in [path] if isinstance(path, str) else path:
        for shown, name in _matches(one, root).items():
            fs, place = filesystem(name)
            if (full := fs.unstrip_protocol(place)) not in seen:
                seen.add(full)
                found[shown] = name
    if len(found) > 1 << FILE_BITS:
        raise UserError(
            f"source {path}: {len(found):,} files, at most {1 << FILE_BITS:,}; make several sources of them"
        )
    return found


def _matches(path: str, root: str) -> dict[str, str]:
    full = resolve(root, path)
    magic = _MAGIC.search(path)
    if not magic:
        return {path: full}
    fs, pattern = filesystem(full)
    if fs.isfile(pattern):
        return {path: full}
    names = sorted(name for name in fs.glob(pattern) if fs.isfile(name))
    if not names:
        raise UserError(f"source {path}: no file matches")
    fixed = pattern[: len(pattern) - len(path) + magic.start()].rpartition("/")[0]
    return {f"{path}#{name.removeprefix(fixed).lstrip('/')}": fs.unstrip_protocol(name) for name in names}
