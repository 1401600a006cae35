"""An exact index: all vectors in one file that is mapped into memory. It needs no library."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipeline.search.exact import CORPUS_TILE, Floats
from pipeline.search.index import ExactSearch, IndexType, SearchIndex, VectorBlocks
from pipeline.storage.files import local_file, new_file


class Exact(IndexType):
    """Every vector is compared with the query; nothing is missed."""

    type: Literal["exact"] = "exact"
    file: ClassVar[str] = "index.npy"
    approximate: ClassVar[bool] = False

    def build(
        self, vectors: VectorBlocks, path: str, threads: int = 0, documents: Iterator[pa.Table] | None = None
    ) -> int:
        """Write the vectors as one float32 array in NumPy's format; return its bytes."""
        with new_file(path) as local:
            rows = np.lib.format.open_memmap(str(local), "w+", np.float32, (vectors.count, vectors.dim))
            first = 0
            for block in vectors:
                rows[first : first + len(block)] = block
                first += len(block)
            rows.flush()
            return local.stat().st_size

    def open(self, path: str, threads: int = 0) -> SearchIndex:
        """Map the array; a search streams it."""
        with local_file(path) as local:
            rows: Floats = np.load(local, mmap_mode="r")
        return ExactSearch(_Tiles(rows), rows.shape[1], rows.shape[0])


class _Tiles:
    """Slices of an array, to be iterated over again and again."""

    def __init__(self, rows: Floats) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Floats]:
        return (self.rows[first : first + CORPUS_TILE] for first in range(0, len(self.rows), CORPUS_TILE))
