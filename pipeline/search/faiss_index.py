"""Indexes of FAISS by inner product: flat (exact), HNSW (a graph), IVF-PQ (an inverted file of short codes)."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.search.exact import Floats, Rows
from pipeline.search.index import IndexType, SearchIndex, VectorBlocks
from pipeline.storage.files import local_file, new_file

_TRAINING_VECTORS = 64  # for each centroid, at most
_CENTROIDS_OF_A_CODE = 256  # of eight bits


class FaissType(IndexType):
    """What the indexes of FAISS share: one file that FAISS reads and writes."""

    file: ClassVar[str] = "index.faiss"
    mapped: ClassVar[bool] = False  # whether the vectors stay on disk while the index is open

    @abstractmethod
    def create(self, faiss: Any, dim: int, count: int) -> Any:
        """Return an empty FAISS index for `count` vectors of width `dim`."""

    def set_search_parameters(self, faiss: Any, index: Any) -> None:
        """Set how thoroughly a FAISS index is searched."""
        return None

    def check_installed(self) -> None:
        """Raise UserError that names the extra where FAISS is missing."""
        import_faiss()

    def build(
        self, vectors: VectorBlocks, path: str, threads: int = 0, documents: Iterator[pa.Table] | None = None
    ) -> int:
        """Train the index where it learns, add the vectors block by block, write it; return its bytes."""
        faiss = _faiss(threads)
        index = self.create(faiss, vectors.dim, vectors.count)
        if not index.is_trained:
            index.train(vectors.sample(_TRAINING_VECTORS * max(_CENTROIDS_OF_A_CODE, index.nlist)))
        for block in vectors:
            index.add(block)
        with new_file(path) as local:
            faiss.write_index(index, str(local))
            return local.stat().st_size

    def open(self, path: str, threads: int = 0) -> SearchIndex:
        """Read the index."""
        faiss = _faiss(threads)
        with local_file(path) as local:
            index = faiss.read_index(str(local), faiss.IO_FLAG_MMAP if self.mapped else 0)
        self.set_search_parameters(faiss, index)
        return FaissIndex(index)


class FaissIndex:
    """A FAISS index that is open for search."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self.dim: int = index.d
        self.size: int = index.ntotal

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """Return inner products and rows [Q, k] of the nearest, best first; rows are -1 where there are fewer."""
        scores, rows = self.index.search(queries, k)
        return scores, rows


class Flat(FaissType):
    """Every vector as it is; exact."""

    type: Literal["flat"] = "flat"
    approximate: ClassVar[bool] = False

    def create(self, faiss: Any, dim: int, count: int) -> Any:
        """Return an empty FAISS index."""
        return faiss.IndexFlatIP(dim)


class Hnsw(FaissType):
    """A graph of near neighbours (Malkov and Yashunin 2018): fast, exact scores, more memory."""

    type: Literal["hnsw"] = "hnsw"
    m: int = Field(32, ge=4, description="neighbours that each vector is linked with")
    ef_construction: int = Field(200, ge=8, description="candidates while the graph is built")
    ef_search: int = Field(128, ge=1, description="candidates while it is searched: recall against speed")

    def create(self, faiss: Any, dim: int, count: int) -> Any:
        """Return an empty FAISS index."""
        index = faiss.IndexHNSWFlat(dim, self.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def set_search_parameters(self, faiss: Any, index: Any) -> None:
        """Set `ef_search`."""
        index.hnsw.efSearch = self.ef_search


class IvfPq(FaissType):
    """An inverted file of product-quantised vectors (Jegou et al. 2011): the least memory."""

    type: Literal["ivfpq"] = "ivfpq"
    mapped: ClassVar[bool] = True
    nlist: int | None = Field(None, ge=1, description="lists; default: 4 times the root of the number of vectors")
    code_bytes: int | None = Field(None, ge=1, description="of a vector; divides the width; default: a quarter of it")
    nprobe: int = Field(32, ge=1, description="lists that a search looks into: recall against speed")

    def create(self, faiss: Any, dim: int, count: int) -> Any:
        """Return an empty FAISS index; raises UserError where the code does not divide the width."""
        nlist = self.nlist or max(1, min(int(4 * count**0.5), count // 39))
        size = self.code_bytes or max(1, dim // 4)
        if dim % size:
            raise UserError(f"index.code_bytes {size}: does not divide the width {dim} of the vectors")
        if count < _CENTROIDS_OF_A_CODE:
            raise UserError(
                f"index ivfpq: needs {_CENTROIDS_OF_A_CODE} vectors to learn its codes from, there are {count}; "
                "choose flat"
            )
        index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, nlist, size, 8, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = index.pq.cp.seed = 13
        return index

    def set_search_parameters(self, faiss: Any, index: Any) -> None:
        """Set `nprobe`."""
        faiss.extract_index_ivf(index).nprobe = self.nprobe


def import_faiss() -> Any:
    """Import faiss, or raise UserError that names the extra."""
    try:
        import faiss
    except ImportError as error:
        raise UserError("index: needs faiss; install it with `pip install 'tripletail[ann]'`") from error
    return faiss


def _faiss(threads: int) -> Any:
    faiss = import_faiss()
    if threads:
        faiss.omp_set_num_threads(threads)
    return faiss
