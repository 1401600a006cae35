"""The index job: vectors into an index of any type, with its recall against exact search."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.core.config import JobConfig
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.search import passage_documents
from pipeline.search.approximate import recall
from pipeline.search.exact import Rows, top_k
from pipeline.search.faiss_index import Flat
from pipeline.search.index import ArtifactVectors, SearchIndex, VectorBlocks, WatchedVectors
from pipeline.search.passage_documents import PassageDocuments
from pipeline.search.registry import AnyIndex
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact, begin
from pipeline.storage.files import join, open_parquet


class IndexConfig(JobConfig):
    """Build an index of embedded vectors, in FAISS or Lance, and measure its recall against exact search."""

    common_settings = ("run", "vectors", "out", "column", "index", "top_k", "overwrite")
    documentation = "pipeline/README.md"

    vectors: str | None = Field(None, description="artifact of embed; default {run}/vectors")
    out: str | None = Field(None, description="default {run}/index")
    column: str = Field("vector", description="column of the vectors, such as vector_int8_128")
    index: AnyIndex = Field(default_factory=Flat, description="its type: flat, hnsw, ivfpq, lance or exact")
    top_k: int = Field(10, ge=1, description="neighbours that recall is measured on")
    sample: int = Field(500, ge=1, description="vectors that recall is measured with")
    threads: int = Field(0, ge=0, description="default: one a CPU")

    def result_settings(self) -> dict[str, Any]:
        """Leave out what changes no result."""
        return {key: value for key, value in super().result_settings().items() if key != "threads"}


def run(config: IndexConfig) -> Artifact:
    """Build an index of vectors into `{run}/index`: the index, and its documents in the order of its rows.

    The documents are in the table `documents`, or in the index itself where its type stores them. Of passages a row of
    either is one, and searches go by their documents. Recall is measured
    with vectors of the corpus, none of which counts as its own neighbour. Raises UserError without the library or
    vectors, and on a finished artifact of other vectors or settings.
    """
    config.index.check_installed()
    vectors = Artifact.open(config.vectors or f"{config.run}/vectors", "embed")
    out = config.out or f"{config.run}/index"
    inputs = {"vectors": vectors.manifest.fingerprint}
    draft = begin(out, "index", config.result_settings(), inputs, overwrite=config.overwrite)
    if isinstance(draft, Artifact):
        say(f"index: {out} is already done")
        return draft
    if not vectors.rows("vectors"):
        raise UserError(f"{vectors.path}: holds no vector")
    blocks, path, started = ArtifactVectors(vectors, config.column), join(out, config.index.file), time.monotonic()
    with Progress("index", blocks.count, "vectors") as progress:
        watched = WatchedVectors(blocks, progress.add)
        size = config.index.build(watched, path, config.threads, _documents(blocks.files))
    seconds = time.monotonic() - started
    if not config.index.stores_documents:
        for number, file in enumerate(blocks.files):
            draft.write("documents", pa.concat_tables(_documents([file])), number)
    if vectors.manifest.notes.get("passages"):
        PassageDocuments.read(blocks.files).save(join(out, passage_documents.FILE))
    share, rate = measure(blocks, config.index.open(path, config.threads), config.top_k, config.sample)
    say(
        f"index: {out}: {blocks.count:,} vectors as {config.index.type} in {seconds:.1f} s, {size / 2**20:,.1f} MiB, "
        f"recall@{config.top_k} {share:.4f} of exact search, {rate:,.0f} queries/s"
    )
    return draft.finish(
        [] if config.index.stores_documents else ["documents"],
        index=config.index.model_dump(mode="json"),
        recall=share,
        top_k=config.top_k,
        bytes=size,
        dim=blocks.dim,
        **{name: vectors.manifest.notes.get(name) for name in ("encoder", "model", "passages")},
    )


def measure(blocks: VectorBlocks, index: SearchIndex, k: int, sample: int) -> tuple[float, float]:
    """Return recall at k against exact search, and queries a second, over a sample of the vectors."""
    queries = blocks.sample(sample)
    query_rows: Rows = np.arange(len(queries), dtype=np.int64) * blocks.sample_step(sample)
    k = min(k, blocks.count - 1)
    if k < 1:
        return 1.0, 0.0
    _, exact = top_k(queries, blocks, k, excluded=(np.arange(len(queries)), query_rows))
    started = time.monotonic()
    _, rows = index.search(queries, k + 1)
    rate = len(queries) / max(1e-9, time.monotonic() - started)
    neighbours = [row[row != query_row][:k] for row, query_row in zip(rows, query_rows, strict=True)]
    hits, count = recall(np.stack(neighbours), exact)
    return hits / max(1, count), rate


def _documents(files: list[str]) -> Iterator[pa.Table]:
    """Yield what a search shows of the documents, all columns but the vectors, one row group at a time."""
    for path in files:
        with open_parquet(path) as file:
            names = document_columns(file.schema_arrow.names)
        yield from shards.read_batches([path], names)


def document_columns(names: list[str]) -> list[str]:
    """Return the columns of a vectors table that belong to the documents."""
    return [name for name in names if not name.startswith("vector") and name != "text_key"]
