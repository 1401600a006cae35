"""The corpus as numbered rows, read in pieces: nothing here holds more than one batch of documents."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage import shards
from pipeline.storage.artifact import Artifact

VECTOR_ROWS = 65_536


@dataclass(frozen=True)
class Piece:
    """Rows of the corpus that follow each other, of one file or several: the first of them, and the column to take."""

    shards: tuple[shards.Shard, ...]
    first_row: int
    column: str

    @property
    def rows(self) -> int:
        """Documents in it."""
        return sum(shard.rows for shard in self.shards)

    def read(self) -> pa.ChunkedArray:
        """Read the column of these rows: text, to be encoded, or vector."""
        parts = [shards.read(shard, [self.column]).column(self.column) for shard in self.shards]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)

    def packed(self) -> str:
        """Return it as JSON, for a row of Ray Data."""
        return json.dumps([[asdict(shard) for shard in self.shards], self.first_row, self.column])

    @classmethod
    def unpack(cls, packed: str) -> "Piece":
        """Take it back from a row."""
        held, first_row, column = json.loads(packed)
        return cls(tuple(shards.Shard(**shard) for shard in held), first_row, column)


class Corpus:
    """A table of documents in its order: row 0 is the first document of the first file."""

    def __init__(self, artifact: Artifact, table: str = "corpus", key: str = "doc_id") -> None:
        self.key = key
        self.files = artifact.files(table) if artifact.has(table) else []
        self.rows = artifact.rows(table)

    def __len__(self) -> int:
        return self.rows

    def pieces(self, column: str = "text", rows: int | None = None) -> list[Piece]:
        """Cut the table into pieces of rows that follow each other.

        Their size depends on the number of rows alone, about 64 of them between 256 and 16,384 rows, and they go
        across files: what is encoded together depends neither on the number of actors nor on that of files.
        """
        size = rows or min(16_384, max(256, -(-len(self) // 64)))
        whole = shards.plan(self.files, max(1, len(self)), "evaluate")
        ends = np.cumsum([0, *(shard.rows for shard in whole)]).tolist()
        return [
            Piece(tuple(_overlap(whole, ends, first, min(first + size, len(self)))), first, column)
            for first in range(0, len(self), size)
        ]

    def batches(self, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """Stream the table: first row and rows."""
        row = 0
        for batch in shards.batches(self.files, columns):
            yield row, batch
            row += batch.num_rows

    def find(self, ids: Iterable[str]) -> dict[str, int]:
        """Rows of these documents; ids that the corpus lacks are left out."""
        wanted = pa.array(sorted(set(ids)), pa.string())
        found: dict[str, int] = {}
        for first, batch in self.batches([self.key]):
            column = batch.column(self.key)
            places = np.flatnonzero(pc.is_in(column, wanted).to_numpy(zero_copy_only=False))
            for place, doc in zip(places, column.take(pa.array(places)).to_pylist(), strict=True):
                found.setdefault(doc, first + int(place))
        return found

    def take(self, rows: Iterable[int], columns: list[str]) -> dict[int, dict[str, Any]]:
        """Columns of these rows, by row."""
        wanted = np.unique(np.fromiter(rows, np.int64))
        taken: dict[int, dict[str, Any]] = {}
        for first, batch in self.batches(columns):
            low, high = np.searchsorted(wanted, [first, first + batch.num_rows])
            local = wanted[low:high] - first
            for place, row in zip(local, batch.take(pa.array(local)).to_pylist(), strict=True):
                taken[first + int(place)] = row
        return taken

    def order(self) -> str:
        """Digest of the ids in their order: two tables with the same digest number their rows alike."""
        sha = hashlib.sha256()
        for _, batch in self.batches([self.key]):
            sha.update("".join(f"{doc}\0" for doc in batch.column(self.key).to_pylist()).encode())
        return sha.hexdigest()


def _overlap(whole: list[shards.Shard], ends: list[int], first: int, last: int) -> Iterator[shards.Shard]:
    """Parts of files that hold the rows from `first` to before `last`; file i holds those from ends[i] on."""
    for shard, start, end in zip(whole, ends, ends[1:], strict=False):
        low, high = max(first, start), min(last, end)
        if low < high:
            yield replace(shard, start=low - start, rows=high - low)
