"""The corpus as numbered rows, read in chunks: nothing here has more than one batch of documents in memory."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage import shards
from pipeline.storage.artifact import MANIFEST, Artifact
from pipeline.storage.files import filesystem, join

VECTOR_ROWS = 65_536


@dataclass(frozen=True)
class CorpusChunk:
    """Consecutive rows of the corpus, of one file or several: the number of the first, and the column to read."""

    shards: tuple[shards.Shard, ...]
    first_row: int
    column: str

    @property
    def rows(self) -> int:
        """Number of documents."""
        return sum(shard.rows for shard in self.shards)

    def read(self) -> pa.ChunkedArray:
        """Read the column of these rows: texts to encode, or vectors."""
        parts = [shards.read(shard, [self.column]).column(self.column) for shard in self.shards]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)

    def packed(self) -> str:
        """Write the chunk as JSON, which travels as a row of Ray Data."""
        return json.dumps([[asdict(shard) for shard in self.shards], self.first_row, self.column])

    @classmethod
    def unpack(cls, packed: str) -> "CorpusChunk":
        """Read a chunk that `packed` wrote."""
        shard_fields, first_row, column = json.loads(packed)
        return cls(tuple(shards.Shard(**shard) for shard in shard_fields), first_row, column)


def chunk_rows(documents: int) -> int:
    """Documents of a chunk of a corpus of so many: about 64 chunks, of 256 to 16,384 documents each."""
    return min(16_384, max(256, -(-documents // 64)))


class Corpus:
    """A table of documents in its order: row 0 is the first document of the first file."""

    def __init__(self, artifact: Artifact, table: str = "corpus", key: str = "doc_id") -> None:
        self.key = key
        self.files = artifact.files(table) if artifact.has(table) else []
        self.rows = artifact.rows(table)

    def __len__(self) -> int:
        return self.rows

    def chunks(self, column: str = "text", rows: int | None = None) -> list[CorpusChunk]:
        """Cut the table into chunks of consecutive rows.

        Their size depends on the number of rows alone, about 64 of them between 256 and 16,384 rows, and they go
        across files: what is encoded together depends neither on the number of actors nor on that of files.
        """
        size = rows or chunk_rows(len(self))
        files = shards.plan(self.files, max(1, len(self)), "evaluate")
        ends = np.cumsum([0, *(shard.rows for shard in files)]).tolist()
        return [
            CorpusChunk(tuple(overlap(files, ends, first, min(first + size, len(self)))), first, column)
            for first in range(0, len(self), size)
        ]

    def batches(self, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """Stream the table in batches, each with the number of its first row."""
        row = 0
        for batch in shards.read_batches(self.files, columns):
            yield row, batch
            row += batch.num_rows

    def find(self, ids: Iterable[str]) -> dict[str, int]:
        """Rows of these documents; ids that the corpus lacks are left out."""
        id_set = pa.array(sorted(set(ids)), pa.string())
        row_of: dict[str, int] = {}
        for first, batch in self.batches([self.key]):
            column = batch.column(self.key)
            matching = np.flatnonzero(pc.is_in(column, id_set).to_numpy(zero_copy_only=False))
            for index, doc in zip(matching, column.take(pa.array(matching)).to_pylist(), strict=True):
                row_of.setdefault(doc, first + int(index))
        return row_of

    def take(self, rows: Iterable[int], columns: list[str]) -> dict[int, dict[str, Any]]:
        """Values of some columns of these rows: {row number: {column: value}}."""
        row_numbers = np.unique(np.fromiter(rows, np.int64))
        values: dict[int, dict[str, Any]] = {}
        if not len(row_numbers):
            return values
        for first, batch in self.batches(columns):
            if first > row_numbers[-1]:
                break
            low, high = np.searchsorted(row_numbers, [first, first + batch.num_rows])
            local = row_numbers[low:high] - first
            for index, row in zip(local, batch.take(pa.array(local)).to_pylist(), strict=True):
                values[first + int(index)] = row
        return values

    def order(self) -> str:
        """Digest of the ids in their order: two tables with the same digest number their rows alike."""
        sha = hashlib.sha256()
        for _, batch in self.batches([self.key]):
            sha.update("".join(f"{doc}\0" for doc in batch.column(self.key).to_pylist()).encode())
        return sha.hexdigest()


def open_embedding(path: str, data: Artifact, identity: dict[str, str]) -> Artifact | None:
    """Open vectors in float32 of this data by this encoder; None where there are none at a path."""
    fs, root = filesystem(path)
    if not fs.exists(join(root, MANIFEST)):
        return None
    artifact = Artifact.open(path, "embed")
    table = artifact.manifest.tables.get("vectors")
    fits = (
        table is not None
        and artifact.manifest.notes.get("encoder") == identity
        and artifact.manifest.inputs.get("data") == data.manifest.fingerprint
        and table.columns.get("vector", "").startswith("fixed_size_list<element: float>")
    )
    return artifact if fits else None


def overlap(files: list[shards.Shard], ends: list[int], first: int, last: int) -> Iterator[shards.Shard]:
    """Parts of files that hold the rows from `first` to before `last`; file i holds those from ends[i] on."""
    for index in range(bisect_right(ends, first) - 1, len(files)):  # of many files and chunks, not all for each chunk
        start, end = ends[index], ends[index + 1]
        if start >= last:
            return
        low, high = max(first, start), min(last, end)
        if low < high:
            yield replace(files[index], start=low - start, rows=high - low)
