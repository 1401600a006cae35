"""The corpus as numbered rows, read in pieces: nothing here holds more than one batch of documents."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import shards
from pipeline.artifact import Artifact

VECTOR_ROWS = 65_536


@dataclass(frozen=True)
class Piece:
    """One shard of the corpus: its first row there, and the column to take, text (to be encoded) or vector."""

    shard: shards.Shard
    first_row: int
    column: str

    @property
    def rows(self) -> int:
        """Documents in it."""
        return self.shard.rows

    def read(self) -> pa.ChunkedArray:
        """Read the column of these rows."""
        return shards.read(self.shard, [self.column]).column(self.column)

    def packed(self) -> dict[str, Any]:
        """Return it as a row for Ray Data."""
        return asdict(self)

    @classmethod
    def unpack(cls, row: dict[str, Any]) -> "Piece":
        """Take it back from a row."""
        return cls(shards.Shard(**row["shard"]), row["first_row"], row["column"])


class Corpus:
    """A table of documents in its order: row 0 is the first document of the first file."""

    def __init__(self, artifact: Artifact, table: str = "corpus", key: str = "doc_id") -> None:
        self.key = key
        self.files = artifact.files(table) if artifact.has(table) else []
        self.rows = artifact.rows(table)

    def __len__(self) -> int:
        return self.rows

    def pieces(self, column: str = "text", rows: int | None = None) -> list[Piece]:
        """Cut the table into pieces.

        Their size depends on the corpus alone, about 64 of them between 256 and 16,384 rows, so that what is encoded
        together does not depend on the number of actors.
        """
        size = rows or min(16_384, max(256, -(-len(self) // 64)))
        cuts = shards.plan(self.files, size, "evaluate")
        firsts = np.cumsum([0, *(cut.rows for cut in cuts)])
        return [Piece(cut, int(first), column) for cut, first in zip(cuts, firsts, strict=False)]

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
