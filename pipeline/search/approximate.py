"""Approximate search for large corpora: a FAISS index whose recall is measured, and whose finds are scored exactly."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.search.exact import Floats, Rows, dots, top_k
from pipeline.search.faiss_index import Blocks, Hnsw, IvfPq, fill, library
from pipeline.storage import shards
from pipeline.storage.files import filesystem
from pipeline.storage.vectors import vectors

_SPARE, _QUERIES = 2, 1024


class Exact(Config):
    """Every document is looked at."""

    type: Literal["exact"] = "exact"


Index = Annotated[Exact | Hnsw | IvfPq, Field(discriminator="type")]


class Files(Blocks):
    """The vectors of an encoded corpus."""

    def __init__(self, corpus: Sequence[str]) -> None:
        self.corpus, self.count, self.dim = corpus, 0, 0
        for table in shards.batches(corpus, ["vector"]):
            self.count, self.dim = self.count + table.num_rows, table.schema.field("vector").type.list_size
        if not self.count:
            raise UserError("index: no document has a text")

    def __iter__(self) -> Iterator[Floats]:
        """Yield blocks [n, D]."""
        return vectors(self.corpus)


def build(kind: Hnsw | IvfPq, corpus: Sequence[str], path: str, threads: int) -> int:
    """Index the encoded corpus into one file, whole or not at all; return the documents in it."""
    index = fill(kind, Files(corpus), threads)
    fs, name = filesystem(path)
    with tempfile.TemporaryDirectory() as folder:
        local = str(Path(folder) / "index")
        library().write_index(index, local)
        fs.makedirs(name.rpartition("/")[0], exist_ok=True)
        fs.put(local, f"{name}.partial")
    fs.mv(f"{name}.partial", name)
    return int(index.ntotal)


def load(kind: Hnsw | IvfPq, path: str, threads: int) -> Any:
    """Open an index for searching; a local one of inverted lists stays on disk and is mapped."""
    faiss = library()
    faiss.omp_set_num_threads(threads)
    fs, name = filesystem(path)
    if not Path(name).exists():
        local = str(Path(tempfile.mkdtemp()) / "index")
        fs.get(name, local)
        name = local
    index = faiss.read_index(name, faiss.IO_FLAG_MMAP if isinstance(kind, IvfPq) else 0)
    kind.ready(faiss, index)
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
