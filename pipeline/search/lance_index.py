"""A Lance dataset as index: vectors, ids and what they carry along in one table, which LanceDB opens as it is."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.search.faiss_index import Blocks, Floats, Rows
from pipeline.storage.files import fetch_folder

METRIC = "dot"  # of unit vectors: Lance's distance is 1 less the cosine
LEAST = 256  # vectors that Lance learns codes from


class Lance(Config):
    """A Lance dataset, searched exactly or by an index inside it."""

    type: Literal["lance"] = "lance"
    index: Literal["none", "ivf_pq", "ivf_hnsw_sq"] = Field("none", description="none is searched exactly")
    cells: int | None = Field(None, ge=1, description="default: one for each 4,096 vectors")
    bytes: int | None = Field(
        None, ge=1, description="bytes of an ivf_pq code; a divisor of the width; default: a quarter"
    )
    probes: int = Field(32, ge=1, description="cells that a search looks into: recall against speed")
    refine: int = Field(4, ge=1, description="so many times k are scored again by their exact vectors")

    def searched(self) -> dict[str, Any]:
        """How a search goes."""
        return {} if self.index == "none" else {"nprobes": self.probes, "refine_factor": self.refine}


def library() -> Any:
    """Import lance, or raise UserError that names the extra."""
    os.environ.setdefault("LANCE_LOG", "error")
    try:
        import lance
    except ImportError as error:
        raise UserError("index: needs Lance; install it with `pip install 'tripletail[lance]'`") from error
    logging.getLogger("lance").setLevel(logging.ERROR)
    return lance


def write(kind: Lance, blocks: Blocks, documents: Iterator[pa.Table], place: str) -> int:
    """Write vectors with the documents that go with them to a folder on this machine; returns its bytes.

    Both are streamed, in the same order. Raises UserError where the code does not divide the width, or where there are
    too few vectors to learn codes from.
    """
    lance, size = library(), kind.bytes or max(1, blocks.dim // 4)
    if kind.index == "ivf_pq" and blocks.dim % size:
        raise UserError(f"type.bytes {size}: is no divisor of the width {blocks.dim} of the vectors")
    if kind.index != "none" and blocks.count < LEAST:
        raise UserError(f"type.index {kind.index}: needs {LEAST} vectors, there are {blocks.count}; take none")
    tables = _joined(blocks, documents)
    first = next(tables)
    batches = (batch for one in _chained(first, tables) for batch in one.to_batches())
    reader = pa.RecordBatchReader.from_batches(first.schema, batches)
    dataset = lance.write_dataset(reader, place, schema=first.schema, mode="overwrite")
    if kind.index != "none":
        cells = kind.cells or max(1, blocks.count // 4096)
        codes = {"num_sub_vectors": size} if kind.index == "ivf_pq" else {}
        dataset.create_index("vector", kind.index.upper(), metric=METRIC, num_partitions=cells, **codes)
    return sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())


def opened(kind: Lance, path: str) -> "Opened":
    """Open a dataset; a remote one is brought here first."""
    return Opened(kind, fetch_folder(path) if "://" in path else path)


class Opened:
    """A Lance dataset that is searched as an index of FAISS is."""

    def __init__(self, kind: Lance, place: str) -> None:
        self.kind, self.data = kind, library().dataset(place)
        self.d: int = self.data.schema.field("vector").type.list_size

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """Return cosines and rows [Q, k] of the nearest; -1 where there are fewer."""
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for number, query in enumerate(queries):
            asked = {"column": "vector", "q": query, "k": k, "metric": METRIC, **self.kind.searched()}
            found = self.data.to_table(columns=["row", "_distance"], nearest=asked)
            scores[number, : len(found)] = 1 - found["_distance"].to_numpy()
            rows[number, : len(found)] = found["row"].to_numpy()
        return scores, rows

    def take(self, rows: Rows) -> list[dict[str, Any]]:
        """Return the documents of these rows, in their order."""
        names = [name for name in self.data.schema.names if name not in ("row", "vector")]
        taken: list[dict[str, Any]] = self.data.take(rows.tolist(), columns=names).to_pylist()
        return taken


def _joined(blocks: Blocks, documents: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of row, document and vector; the two come in pieces of their own."""
    row, held = 0, pa.table({})
    for vectors in blocks:
        while len(held) < len(vectors):
            more = next(documents)
            held = more if not len(held) else pa.concat_tables([held, more])
        table, held = held.slice(0, len(vectors)), held.slice(len(vectors))
        table = table.add_column(0, "row", pa.array(np.arange(row, row + len(vectors))))
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
        yield table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        row += len(vectors)


def _chained(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest
