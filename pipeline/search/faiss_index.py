"""Indexes of FAISS by inner product: flat (exact), HNSW (a graph), IVF-PQ (cells and short codes)."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.core.config import Config
from pipeline.core.errors import UserError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
_TRAINING = 64  # vectors a cell that training sees at most


class Flat(Config):
    """Every vector as it is; exact."""

    type: Literal["flat"] = "flat"

    def build(self, faiss: Any, dim: int, count: int) -> Any:
        """Return an empty index for `count` vectors."""
        return faiss.IndexFlatIP(dim)

    def ready(self, faiss: Any, index: Any) -> None:
        """Set how thoroughly a finished index is searched."""


class Hnsw(Config):
    """A graph of near neighbours (Malkov and Yashunin 2018): fast, exact vectors, more memory."""

    type: Literal["hnsw"] = "hnsw"
    links: int = Field(32, ge=4, description="neighbours that a vector is linked with")
    ef_build: int = Field(200, ge=8, description="candidates while the graph is built")
    ef_search: int = Field(128, ge=1, description="candidates while it is searched: recall against speed")

    def build(self, faiss: Any, dim: int, count: int) -> Any:
        """Return an empty index for `count` vectors."""
        index = faiss.IndexHNSWFlat(dim, self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_build
        return index

    def ready(self, faiss: Any, index: Any) -> None:
        """Set how thoroughly a finished index is searched."""
        index.hnsw.efSearch = self.ef_search


class IvfPq(Config):
    """Cells, and in them codes of a few bytes (Jegou et al. 2011): the least memory."""

    type: Literal["ivfpq"] = "ivfpq"
    cells: int | None = Field(None, ge=1, description="default: 4 times the root of the number of vectors")
    bytes: int | None = Field(None, ge=1, description="bytes of a code; a divisor of the width; default: a quarter")
    probes: int = Field(32, ge=1, description="cells that a search looks into: recall against speed")

    def build(self, faiss: Any, dim: int, count: int) -> Any:
        """Return an empty index for `count` vectors; raises UserError where the code does not divide the width."""
        cells = self.cells or max(1, min(int(4 * count**0.5), count // 39))
        size = self.bytes or max(1, dim // 4)
        if dim % size:
            raise UserError(f"type.bytes {size}: is no divisor of the width {dim} of the vectors")
        if count < 256:
            raise UserError(f"type ivfpq: needs 256 vectors to learn its codes from, there are {count}; take flat")
        index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, cells, size, 8, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = index.pq.cp.seed = 13
        return index

    def ready(self, faiss: Any, index: Any) -> None:
        """Set how thoroughly a finished index is searched."""
        faiss.extract_index_ivf(index).nprobe = self.probes


Kind = Flat | Hnsw | IvfPq


def library() -> Any:
    """Import faiss, or raise UserError that names the extra."""
    try:
        import faiss
    except ImportError as error:
        raise UserError("index: needs faiss; install it with `pip install 'tripletail[ann]'`") from error
    return faiss


def fill(kind: Kind, blocks: "Blocks", threads: int) -> Any:
    """Build an index of the vectors of `blocks`, which is read once, and once before by sample where it learns."""
    faiss = library()
    faiss.omp_set_num_threads(threads)
    index = kind.build(faiss, blocks.dim, blocks.count)
    if not index.is_trained:
        index.train(blocks.sample(_TRAINING * max(256, index.nlist)))
    for block in blocks:
        index.add(block)
    kind.ready(faiss, index)
    return index


class Blocks:
    """Unit vectors that are read block by block, as often as wanted."""

    dim: int
    count: int

    def __iter__(self) -> Iterator[Floats]:
        """Yield blocks [n, D]."""
        raise NotImplementedError

    def sample(self, count: int) -> Floats:
        """About `count` vectors, evenly spread: every so many-th one."""
        every, parts, row = max(1, -(-self.count // count)), [], 0
        for block in self:
            parts.append(block[-row % every :: every])
            row += len(block)
        return np.concatenate(parts)


def recall(found: Rows, exact: Rows) -> float:
    """Share of the exact neighbours [Q, k] that are among those found [Q, k]."""
    hits = sum(len(set(one.tolist()) & set(other.tolist())) for one, other in zip(found, exact, strict=True))
    return hits / max(1, exact.size)
