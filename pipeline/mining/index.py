"""Approximate search for large corpora: a FAISS index whose recall is measured, and whose finds are scored exactly."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline import shards
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.files import filesystem
from pipeline.mining.candidates import as_matrix, vectors
from pipeline.mining.cells import Floats, Rows
from pipeline.search import dots, top_k

_SPARE, _QUERIES = 2, 1024


class Exact(Config):
    """Every document is looked at."""

    type: Literal["exact"] = "exact"


class Ivf(Config):
    """Inverted lists: an anchor looks at the lists nearest to it (Jegou et al. 2011); vectors in bytes."""

    type: Literal["ivf"] = "ivf"
    lists: int | None = Field(None, ge=1, description="default: 4 times the square root of the documents")
    probes: int = Field(32, ge=1, description="lists looked at for an anchor: recall against time")
    train_rows: int = Field(200_000, ge=1, description="documents that the lists are learnt from, evenly spaced")


class Hnsw(Config):
    """A graph of neighbours (Malkov and Yashunin 2016, arXiv 1603.09320); vectors in half precision."""

    type: Literal["hnsw"] = "hnsw"
    links: int = Field(32, ge=2, description="links of a document")
    build_breadth: int = Field(200, ge=1, description="candidates looked at when a document is linked")
    breadth: int = Field(256, ge=1, description="candidates looked at for an anchor: recall against time")


Index = Annotated[Exact | Ivf | Hnsw, Field(discriminator="type")]


def library() -> Any:
    """Import FAISS, or say how to install it."""
    try:
        import faiss
    except ImportError as error:
        raise UserError("index: FAISS is not installed; pip install 'tripletail[ann]', or index type exact") from error
    return faiss


def build(config: Ivf | Hnsw, corpus: Sequence[str], path: str, threads: int) -> int:
    """Index the encoded corpus into one file, whole or not at all; return the documents in it.

    Memory: a byte a number for ivf, two for hnsw and its links; the vectors are streamed in.
    """
    faiss = library()
    faiss.omp_set_num_threads(threads)
    count, width = _shape(corpus)
    if isinstance(config, Ivf):
        lists = min(config.lists or max(1, int(4 * count**0.5)), max(1, count))
        index = faiss.index_factory(width, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.train(_sample(corpus, count, max(config.train_rows, lists)))
    else:
        index = faiss.index_factory(width, f"HNSW{config.links},SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = config.build_breadth
        index.train(_sample(corpus, count, 1024))
    for part in vectors(corpus):
        index.add(part)
    _store(faiss, index, path)
    return count


def _shape(corpus: Sequence[str]) -> tuple[int, int]:
    count = width = 0
    for table in shards.batches(corpus, ["vector"]):
        count, width = count + table.num_rows, table.schema.field("vector").type.list_size
    if not count:
        raise UserError("index: no document has a text")
    return count, width


def _sample(corpus: Sequence[str], count: int, wanted: int) -> Floats:
    """Vectors of evenly spaced documents."""
    rows = np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))
    first, parts = 0, []
    for table in shards.batches(corpus, ["vector"]):
        near = rows[slice(*np.searchsorted(rows, [first, first + table.num_rows]))] - first
        parts.append(as_matrix(table["vector"])[near])
        first += table.num_rows
    return np.concatenate(parts)


def _store(faiss: Any, index: Any, path: str) -> None:
    fs, name = filesystem(path)
    with tempfile.TemporaryDirectory() as folder:
        local = str(Path(folder) / "index")
        faiss.write_index(index, local)
        fs.makedirs(os.path.dirname(name), exist_ok=True)  # noqa: PTH120  may be remote
        fs.put(local, f"{name}.partial")
    fs.mv(f"{name}.partial", name)


def load(config: Ivf | Hnsw, path: str, threads: int) -> Any:
    """Open an index for searching; a local one of inverted lists stays on disk and is mapped."""
    faiss = library()
    faiss.omp_set_num_threads(threads)
    fs, name = filesystem(path)
    if not Path(name).exists():
        local = str(Path(tempfile.mkdtemp()) / "index")
        fs.get(name, local)
        name = local
    index = faiss.read_index(name, faiss.IO_FLAG_MMAP if isinstance(config, Ivf) else 0)
    if isinstance(config, Ivf):
        faiss.extract_index_ivf(index).nprobe = config.probes
    else:
        index.hnsw.efSearch = config.breadth
    return index


def approximate(
    index: Any, anchors: Floats, corpus: Sequence[str], k: int, barred: tuple[Rows, Rows] | None = None
) -> Rows:
    """Rows [A, k] that the index finds for anchors [A, D], scored exactly and in exact order; -1: none.

    It is asked for twice as many, and for as many more as an anchor has barred rows, since its own scores are rounded.
    """
    count = len(anchors)
    most = int(np.bincount(barred[0], minlength=1).max(initial=0)) if barred is not None else 0
    asked = min(_SPARE * k + most, int(index.ntotal))
    found = np.concatenate(
        [np.empty((0, asked), np.int64)]
        + [index.search(anchors[first : first + _QUERIES], asked)[1] for first in range(0, count, _QUERIES)]
    )
    if barred is not None and len(barred[0]):
        keys = np.sort(barred[0] * index.ntotal + barred[1])
        cells = np.arange(count)[:, None] * index.ntotal + found
        place = np.minimum(np.searchsorted(keys, cells), len(keys) - 1)
        found[(keys[place] == cells) & (found >= 0)] = -1
    scores = _scores(anchors, corpus, found)
    order = np.lexsort((found, -scores), axis=1)[:, :k]
    rows = np.take_along_axis(found, order, axis=1)
    return np.pad(rows, ((0, 0), (0, k - rows.shape[1])), constant_values=-1)


def _scores(anchors: Floats, corpus: Sequence[str], found: Rows) -> Floats:
    """Exact products of anchors with the rows found for them; -inf for none."""
    scores = np.full(found.shape, -np.inf, np.float32)
    flat = found.ravel()
    order = np.argsort(flat, kind="stable")
    rising = flat[order]
    first = 0
    for part in vectors(corpus):
        at = order[slice(*np.searchsorted(rising, [first, first + len(part)]))]
        scores.ravel()[at] = dots(anchors, part, at // found.shape[1], flat[at] - first)
        first += len(part)
    return scores


def recall(
    index: Any, anchors: Floats, corpus: Sequence[str], k: int, barred: tuple[Rows, Rows] | None = None
) -> tuple[int, int]:
    """Of the exact k nearest of anchors [A, D]: how many the index finds, and how many there are."""
    exact = top_k(anchors, vectors(corpus), k, barred=barred)[1]
    found = approximate(index, anchors, corpus, k, barred)
    hit = sum(len(np.intersect1d(one[one >= 0], two[two >= 0])) for one, two in zip(exact, found, strict=True))
    return hit, int((exact >= 0).sum())
