"""The index job: vectors into a FAISS index or a Lance dataset, with its recall against exact search."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.core.config import JobConfig
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.search import exact as search
from pipeline.search import lance_index
from pipeline.search.faiss_index import Blocks, Flat, Floats, Hnsw, IvfPq, Rows, fill, library, recall
from pipeline.search.lance_index import Lance
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact, begin
from pipeline.storage.files import filesystem, join, new_folder, open_parquet
from pipeline.storage.vectors import matrix, unit

INDEX, DATASET = "index.faiss", "index.lance"
Kind = Flat | Hnsw | IvfPq | Lance
Ranges = dict[str, Any]


class IndexConfig(JobConfig):
    """Settings of the index job."""

    vectors: str | None = Field(None, description="artifact of embed; default {run}/vectors")
    out: str | None = Field(None, description="default {run}/index")
    column: str = Field("vector", description="column of the vectors, such as vector_int8_128")
    type: Kind = Field(default_factory=Flat, discriminator="type", description="flat, hnsw, ivfpq or lance")
    top_k: int = Field(10, ge=1, description="neighbours that recall is measured on")
    sample: int = Field(500, ge=1, description="vectors that recall is measured with")
    threads: int = Field(0, ge=0, description="default: one a CPU")

    def result_settings(self) -> dict[str, Any]:
        """Leave out what changes no result."""
        return {key: value for key, value in super().result_settings().items() if key != "threads"}


class Stored(Blocks):
    """Vectors of an artifact, at length 1."""

    def __init__(self, artifact: Artifact, column: str) -> None:
        self.files, self.column, self.count = artifact.files("vectors"), column, artifact.rows("vectors")
        self.ranges: Ranges = artifact.manifest.notes.get("calibration", {})
        held = artifact.manifest.tables["vectors"].columns
        if column not in held or "vector" not in column:
            names = ", ".join(name for name in held if name.startswith("vector"))
            raise UserError(f"{artifact.path}: has no column of vectors '{column}'; it has {names}")
        self.dim = next(iter(self)).shape[1]

    def __iter__(self) -> Iterator[Floats]:
        """Yield the vectors of one row group after the other."""
        for table in shards.batches(self.files, [self.column]):
            yield unit(matrix(table[self.column], self.ranges))


def run(config: IndexConfig) -> Artifact:
    """Build an index of vectors into `{run}/index`: index.faiss, and table documents in the order of its rows, or
    index.lance, which holds the documents too.

    Recall is measured with vectors of the corpus itself, each of which is no neighbour of its own. Raises UserError
    without the library or vectors, and on a finished artifact made of others.
    """
    kind = config.type
    (lance_index.library if isinstance(kind, Lance) else library)()
    vectors = Artifact.open(config.vectors or f"{config.run}/vectors", "embed")
    out = config.out or f"{config.run}/index"
    inputs = {"vectors": vectors.manifest.fingerprint}
    draft = begin(out, "index", config.result_settings(), inputs, overwrite=config.overwrite)
    if isinstance(draft, Artifact):
        say(f"index: {out} is already done")
        return draft
    if not vectors.rows("vectors"):
        raise UserError(f"{vectors.path}: holds no vector")
    blocks, started = Stored(vectors, config.column), time.monotonic()
    index: Any
    if isinstance(kind, Lance):
        index, size = _dataset(kind, blocks, join(out, DATASET))
        seconds = time.monotonic() - started
    else:
        index = fill(kind, blocks, config.threads or library().omp_get_max_threads())
        seconds = time.monotonic() - started
        size = _write(index, join(out, INDEX))
        for number, table in enumerate(_documents(blocks.files)):
            draft.write("documents", table, number)
    found, rate = measured(config, blocks, index)
    notes = {"type": kind.type, "recall": found, "top_k": config.top_k, "bytes": size, "dim": blocks.dim}
    settings = {"settings": kind.model_dump(mode="json")}
    model = {name: vectors.manifest.notes.get(name) for name in ("encoder", "model")}
    say(
        f"index: {out}: {blocks.count:,} vectors as {kind.type} in {seconds:.1f} s, {size / 2**20:,.1f} MiB, "
        f"recall@{config.top_k} {found:.4f} of exact search, {rate:,.0f} queries/s"
    )
    return draft.finish([] if isinstance(kind, Lance) else ["documents"], **notes, **settings, **model)


def measured(config: IndexConfig, blocks: Blocks, index: Any) -> tuple[float, float]:
    """Recall against exact search, and queries a second, over a sample of the vectors."""
    every = max(1, -(-blocks.count // config.sample))
    queries = blocks.sample(config.sample)
    own: Rows = np.arange(len(queries), dtype=np.int64) * every
    k = min(config.top_k, blocks.count - 1)
    if k < 1:
        return 1.0, 0.0
    _, exact = search.top_k(queries, blocks, k, barred=(np.arange(len(queries)), own))
    started = time.monotonic()
    _, found = index.search(queries, k + 1)
    rate = len(queries) / max(1e-9, time.monotonic() - started)
    others = np.array([[row for row in rows if row != mine][:k] for rows, mine in zip(found, own, strict=True)])
    return recall(others, exact), rate


def _documents(files: list[str]) -> Iterator[pa.Table]:
    """What an answer shows of the documents: all columns but the vectors, one table a file."""
    for path in files:
        yield pa.concat_tables(shards.batches([path], _shown(path)))


def _shown(path: str) -> list[str]:
    with open_parquet(path) as file:
        return [name for name in file.schema_arrow.names if not name.startswith("vector") and name != "text_key"]


def _dataset(kind: Lance, blocks: Stored, path: str) -> tuple[lance_index.Opened, int]:
    """Write a Lance dataset to a path that may be remote; returns it opened and its bytes."""
    documents = (one for file in blocks.files for one in shards.batches([file], _shown(file)))
    with new_folder(path) as folder:
        size = lance_index.write(kind, blocks, documents, str(folder))
    return lance_index.opened(kind, path), size


def _write(index: Any, path: str) -> int:
    """Write the index to a path that may be remote; returns its bytes."""
    faiss = library()
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / INDEX
        faiss.write_index(index, str(local))
        fs, name = filesystem(path)
        fs.put(str(local), name)
        return local.stat().st_size
