"""PostLinks.xml of a Stack Exchange dump: which questions were closed as duplicates of which.

A link is a judgment: the question, and the question that it repeats. Questions that repeat each other, over any number
of links, are one group, so that they stay in one split.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.sources.reading import lines
from pipeline.sources.reading.record import Block, Parsed, chunks
from pipeline.storage.files import filesystem
from pipeline.storage.lines import LongLine, excerpt

_FIELD = re.compile(rb'\b(PostId|RelatedPostId|LinkTypeId)="(\d{1,18})"')
_DUPLICATE = 3
Ids = npt.NDArray[np.int64]


class Links:
    """Duplicate links [L]: groups by question, and the questions that others repeat."""

    def __init__(self, posts: Ids, related: Ids) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        self.ids, rows = np.unique(np.concatenate([posts, related]), return_inverse=True)
        self.repeated = frozenset(related.tolist())
        half, size = len(posts), len(self.ids)
        edges = coo_array((np.ones(half, np.int8), (rows[:half], rows[half:])), shape=(size, size))
        _, part = connected_components(edges, directed=False) if size else (0, np.zeros(0, np.int64))
        self.first = np.full(int(part.max(initial=-1)) + 1, np.iinfo(np.int64).max)
        np.minimum.at(self.first, part, self.ids)
        self.part = part

    def group(self, question: int) -> int:
        """Return the smallest id among the questions that are the same, or the question itself."""
        at = int(np.searchsorted(self.ids, question))
        linked = at < len(self.ids) and self.ids[at] == question
        return int(self.first[self.part[at]]) if linked else question


def links(path: str) -> Links:
    """Read the duplicate links of a file, once a process while it stays as it is: 16 bytes a link."""
    fs, name = filesystem(path)
    return _links(path, fs.ukey(name))


@lru_cache(maxsize=4)
def _links(path: str, stamp: str) -> Links:
    pairs = [pair for row in _rows(Block(0, 0, path, 0, -1)) if isinstance(pair := _pair(row[1][1]), tuple)]
    links_array = np.array(pairs, np.int64).reshape(-1, 2)
    return Links(links_array[:, 0], links_array[:, 1])


def judgments(block: Block, label: str, prefix: str) -> Iterator[Parsed]:
    """Yield a judgment for each duplicate link of a block; links of other types are counted."""

    def take(row: tuple[int, tuple[int, bytes]], parsed: Parsed) -> None:
        line, (offset, raw) = row
        parsed.tally.counts["rows"] += 1
        pair = _pair(raw)
        if isinstance(pair, str):
            parsed.tally.offend(line, *pair.split(": ", 1))
            return
        ids = {"query_id": f"{prefix}q{pair[0]}", "doc_id": f"{prefix}q{pair[1]}"}
        origin = {"source": label, "order": block.order(offset)}
        parsed.add("judgments", **ids, relevance=3, reason="duplicate question", **origin)

    return chunks(_rows(block), take)


def _rows(block: Block) -> Iterator[tuple[int, tuple[int, bytes]]]:
    for line, (offset, raw) in enumerate(lines.read(block), 1):
        row = raw if isinstance(raw, LongLine) else raw.strip()
        if row and not row.startswith((b"<?xml", b"<postlinks", b"</postlinks", b"<!--")):
            yield line, (offset, row)


def _pair(row: bytes) -> tuple[int, int] | str:
    """Read the question and the repeated question of a row, or the reason why it has none."""
    fields = {name: int(value) for name, value in _FIELD.findall(row)}
    if not row.startswith(b"<row") or not row.endswith(b"/>") or len(fields) < 3:
        return f"unreadable_row: no link: {excerpt(row)}"
    if fields[b"LinkTypeId"] != _DUPLICATE:
        return "other_link_type: a link that says no more than 'see also'"
    if fields[b"PostId"] == fields[b"RelatedPostId"]:
        return "unreadable_row: a question that repeats itself"
    return fields[b"PostId"], fields[b"RelatedPostId"]
