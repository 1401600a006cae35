"""The balance of the input: for each file, the rows read are those used and those not used, by one reason each.

A row is used when a record of it is staged. What happens to records later (duplicates, judgments without a document)
is counted apart: a row may give several records, and several rows the same one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from pipeline.building.config import BuildConfig
from pipeline.core.errors import UserError
from pipeline.sources.reading.labels import REFUSED
from pipeline.sources.reading.record import Block
from pipeline.storage.counts import Counts

UNUSABLE = ("unreadable_row", "missing_field", "line_too_long")
MAX_FILES = 10  # of one source that are shown one by one; of more, the sum


@dataclass
class FileRows:
    """Rows of one input file: how many were read, and how many are not used, by the first reason of each."""

    source: str
    file: str
    path: str
    read: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    unread_columns: set[str] = field(default_factory=set)  # columns that the recipe reads nothing from

    @property
    def used(self) -> int:
        """Rows of which a record was staged."""
        return self.read - self.unused.total()

    def add(self, read: int, unused: Counter[str]) -> None:
        """Add the rows of a block."""
        self.read += read
        self.unused.update(unused)

    def plain(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        unused = dict(sorted(self.unused.items()))
        return {"source": self.source, "file": self.file, "read": self.read, "used": self.used, "unused": unused}


def rows_by_file(config: BuildConfig, blocks: Sequence[Block], tallies: Sequence[Counts]) -> list[FileRows]:
    """Rows of each file of each source, from the counts of its blocks."""
    files: dict[tuple[int, str], FileRows] = {}
    names = [{path: name for name, path in source.inputs(config.root).items()} for source in config.all_sources]
    for block, tally in zip(blocks, tallies, strict=True):
        label, name = config.all_sources[block.source].label, names[block.source].get(block.path, block.path)
        rows = files.setdefault((block.source, block.path), FileRows(label, name, block.path))
        rows.add(tally.counts["rows"], tally.unused)
        rows.unread_columns |= tally.unread
    return list(files.values())


def unread_columns(files: Sequence[FileRows]) -> dict[str, list[str]]:
    """Columns of each source that the recipe reads nothing from; sources without such columns are left out."""
    columns: dict[str, set[str]] = {}
    for file in files:
        columns.setdefault(file.source, set()).update(file.unread_columns)
    return {source: sorted(names) for source, names in columns.items() if names}


def check_unusable(files: Sequence[FileRows], max_share: float, examples: Mapping[str, Sequence[str]]) -> None:
    """Refuse a file of which more than a share of the rows cannot be read; raises UserError naming the first one.

    A label, score or name of a split without a meaning is refused whatever the share: the recipe misreads the file.
    """
    for file in files:
        misread = [reason for reason in REFUSED if file.unused[reason]]
        reasons = misread or UNUSABLE
        count = sum(file.unused[reason] for reason in reasons)
        if misread or count > max_share * file.read:
            lines = [text for reason in reasons for text in examples.get(reason, ()) if text.startswith(file.path)]
            first = f"; line {lines[0].removeprefix(file.path + ':')}" if lines else ""
            raise UserError(f"source {file.path}: {count:,} of {file.read:,} rows cannot be used{first}")


def table(files: Sequence[FileRows]) -> list[str]:
    """Lines of a table with the rows of each file; a source of more than `MAX_FILES` files has one line."""
    cells = [("source", "file", "read", "used", "not used")]
    for source, run in groupby(files, key=lambda file: file.source):
        rows = list(run)
        for file in rows if len(rows) <= MAX_FILES else [_sum(source, rows)]:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(file.unused.items()) if count)
            cells.append((source, file.file, f"{file.read:,}", f"{file.used:,}", reasons or "-"))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return [
        f"{source:<{widths[0]}}  {file:<{widths[1]}}  {read:>{widths[2]}}  {used:>{widths[3]}}  {unused}"
        for source, file, read, used, unused in cells
    ]


def shortened(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - MAX_FILES:,} more" if len(names) > MAX_FILES else ""
    return ", ".join(names[:MAX_FILES]) + more


def _sum(source: str, files: Sequence[FileRows]) -> FileRows:
    total = FileRows(source, f"{len(files):,} files", "")
    for file in files:
        total.add(file.read, file.unused)
    return total
