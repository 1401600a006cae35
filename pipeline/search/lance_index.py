"""A Lance dataset as index: vectors and documents in one table, which LanceDB opens as it is."""

import logging
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.search.exact import Floats, Rows
from pipeline.search.index import DocumentIndex, IndexType, VectorBlocks
from pipeline.storage.files import download_folder, new_folder

METRIC = "dot"  # of unit vectors: Lance's distance is 1 less the cosine
_TRAINING_VECTORS = 256  # the fewest that Lance learns codes from


class Lance(IndexType):
    """A Lance dataset, searched exactly or by an index inside it."""

    type: Literal["lance"] = "lance"
    file: ClassVar[str] = "index.lance"
    stores_documents: ClassVar[bool] = True
    index_type: Literal["none", "ivf_pq", "ivf_hnsw_sq"] = Field("none", description="none is searched exactly")
    num_partitions: int | None = Field(None, ge=1, description="default: one for each 4,096 vectors")
    num_sub_vectors: int | None = Field(
        None, ge=1, description="of ivf_pq, a byte each; divides the width; default: a quarter of it"
    )
    nprobes: int = Field(32, ge=1, description="partitions that a search looks into: recall against speed")
    refine_factor: int = Field(4, ge=1, description="so many times k are scored again by their exact vectors")

    def check_installed(self) -> None:
        """Raise UserError that names the extra where Lance is missing."""
        import_lance()

    def build(
        self, vectors: VectorBlocks, path: str, threads: int = 0, documents: Iterator[pa.Table] | None = None
    ) -> int:
        """Write vectors with the documents that go with them, streamed, then the index; return the bytes of all.

        Raises UserError where the code does not divide the width, or where there are too few vectors to learn from.
        """
        lance, size = import_lance(), self.num_sub_vectors or max(1, vectors.dim // 4)
        if self.index_type == "ivf_pq" and vectors.dim % size:
            raise UserError(f"index.num_sub_vectors {size}: does not divide the width {vectors.dim} of the vectors")
        if self.index_type != "none" and vectors.count < _TRAINING_VECTORS:
            raise UserError(
                f"index.index_type {self.index_type}: needs {_TRAINING_VECTORS} vectors, there are {vectors.count}; "
                "choose none"
            )
        tables = _rows(vectors, documents)
        first = next(tables)
        batches = (batch for table in chain([first], tables) for batch in table.to_batches())
        with new_folder(path) as folder:
            reader = pa.RecordBatchReader.from_batches(first.schema, batches)
            dataset = lance.write_dataset(reader, str(folder), schema=first.schema, mode="overwrite")
            if self.index_type != "none":
                partitions = self.num_partitions or max(1, vectors.count // 4096)
                codes = {"num_sub_vectors": size} if self.index_type == "ivf_pq" else {}
                index_type = self.index_type.upper()
                dataset.create_index("vector", index_type, metric=METRIC, num_partitions=partitions, **codes)
            return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())

    def open(self, path: str, threads: int = 0) -> DocumentIndex:
        """Open the dataset; a remote one is copied to this machine first."""
        parameters = {} if self.index_type == "none" else {"nprobes": self.nprobes, "refine_factor": self.refine_factor}
        return LanceIndex(download_folder(path) if "://" in path else path, parameters)


def import_lance() -> Any:
    """Import lance, or raise UserError that names the extra."""
    os.environ.setdefault("LANCE_LOG", "error")
    try:
        import lance
    except ImportError as error:
        raise UserError("index: needs Lance; install it with `pip install 'tripletail[lance]'`") from error
    logging.getLogger("lance").setLevel(logging.ERROR)
    return lance


class LanceIndex:
    """A Lance dataset that is open for search."""

    def __init__(self, path: str, parameters: dict[str, int]) -> None:
        self.data, self.parameters = import_lance().dataset(path), parameters
        self.dim: int = self.data.schema.field("vector").type.list_size
        self.size: int = self.data.count_rows()

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """Return cosines and rows [Q, k] of the nearest, best first; rows are -1 where there are fewer."""
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for number, query in enumerate(queries):
            nearest = {"column": "vector", "q": query, "k": k, "metric": METRIC, **self.parameters}
            hits = self.data.to_table(columns=["row", "_distance"], nearest=nearest)
            scores[number, : len(hits)] = 1 - hits["_distance"].to_numpy()
            rows[number, : len(hits)] = hits["row"].to_numpy()
        return scores, rows

    def documents(self, rows: Rows) -> list[dict[str, Any]]:
        """Return the documents of these rows, in their order."""
        names = [name for name in self.data.schema.names if name not in ("row", "vector")]
        documents: list[dict[str, Any]] = self.data.take(rows.tolist(), columns=names).to_pylist()
        return documents


def _rows(vectors: VectorBlocks, documents: Iterable[pa.Table] | None) -> Iterator[pa.Table]:
    """Yield tables of row, document and vector, one a block of vectors; the documents come in pieces of their own."""
    pieces, row, pending = iter(documents or ()), 0, pa.table({})
    for block in vectors:
        table = pa.table({"row": np.arange(row, row + len(block))})
        if documents is not None:
            while len(pending) < len(block):
                piece = next(pieces)
                pending = piece if not len(pending) else pa.concat_tables([pending, piece])
            for name in pending.column_names:
                table = table.append_column(name, pending[name].slice(0, len(block)))
            pending = pending.slice(len(block))
        flat = pa.array(np.ascontiguousarray(block, np.float32).ravel())
        yield table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, block.shape[1]))
        row += len(block)
