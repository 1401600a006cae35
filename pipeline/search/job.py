"""The index job: vectors into an index of any type, with its recall against exact search."""

import time
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from pipeline.core import ray_session
from pipeline.core.config import JobConfig
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.search import bm25_tasks, passage_documents
from pipeline.search.approximate import recall
from pipeline.search.bm25 import BM25Config
from pipeline.search.bm25_index import SHARD_ROWS
from pipeline.search.document_table import GROUP_ROWS
from pipeline.search.documents import VectorDocuments
from pipeline.search.exact import Rows, top_k
from pipeline.search.faiss_index import Flat
from pipeline.search.index import ArtifactVectors, SearchIndex, VectorBlocks, WatchedVectors
from pipeline.search.passage_documents import PassageDocuments
from pipeline.search.registry import AnyIndex
from pipeline.storage.artifact import Artifact, Draft, begin
from pipeline.storage.files import join

BM25 = "bm25"  # folder of the index of words
DOCUMENTS, TEXTS = "documents", "texts"  # tables: what a search shows, and texts of whole documents beside passages


class IndexConfig(JobConfig):
    """Build an index of embedded vectors, in FAISS or Lance, and measure its recall against exact search."""

    common_settings = ("run", "vectors", "out", "column", "index", "bm25", "top_k", "overwrite")
    documentation = "pipeline/README.md"

    vectors: str | None = Field(None, description="artifact of embed; default {run}/vectors")
    out: str | None = Field(None, description="default {run}/index")
    column: str = Field("vector", description="column of the vectors, such as vector_int8_128")
    index: AnyIndex = Field(default_factory=Flat, description="its type: flat, hnsw, ivfpq, lance or exact")
    bm25: BM25Config | None = Field(
        None, description="index the documents' words too, for `search --system mix`: true, or its settings"
    )
    data: str | None = Field(
        None, description="artifact of build that the vectors are of, for the texts of BM25; default {run}/data"
    )
    top_k: int = Field(10, ge=1, description="neighbours that recall is measured on")
    sample: int = Field(500, ge=1, description="vectors that recall is measured with")
    threads: int = Field(0, ge=0, description="default: one a CPU")

    @field_validator("bm25", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return BM25Config.switched(value)

    def result_settings(self) -> dict[str, Any]:
        """Leave out what changes no result."""
        return {key: value for key, value in super().result_settings().items() if key not in ("threads", "data")}


def run(config: IndexConfig) -> Artifact:
    """Build an index of vectors into `{run}/index`: the index, and its documents in the order of its rows.

    The documents are in the table `documents`, or in the index itself where its type stores them. With `bm25` the
    folder `bm25` holds an index of their words, built shard by shard, and the table their texts. Of passages a row of
    the table is one, searches go by their documents, and BM25 is of whole documents, whose texts are in a table
    `texts`. Recall is measured with vectors of the corpus, none of which counts as its own neighbour. Raises UserError
    without the library, vectors or texts, and on a finished artifact of other vectors or settings.
    """
    config.index.check_installed()
    vectors = Artifact.open(config.vectors or f"{config.run}/vectors", "embed")
    out = config.out or f"{config.run}/index"
    inputs = {"vectors": vectors.manifest.fingerprint}
    documents, texts = _documents(config, vectors)
    draft = begin(out, "index", config.result_settings(), inputs, overwrite=config.overwrite)
    if isinstance(draft, Artifact):
        say(f"index: {out} is already done")
        return draft
    if not vectors.rows("vectors"):
        raise UserError(f"{vectors.path}: holds no vector")
    blocks, path, started = ArtifactVectors(vectors, config.column), join(out, config.index.file), time.monotonic()
    with Progress("index", blocks.count, "vectors") as progress:
        watched = WatchedVectors(blocks, progress.add)
        size = config.index.build(watched, path, config.threads, iter(documents))
    seconds = time.monotonic() - started
    tables = {DOCUMENTS: documents} if documents is texts or not config.index.stores_documents else {}
    tables |= {TEXTS: texts} if texts and documents is not texts else {}
    files = {name: _write_documents(draft, name, rows) for name, rows in tables.items()}
    if config.bm25:
        ray_session.start()
        bm25_tasks.build(files.get(TEXTS) or files[DOCUMENTS], join(out, BM25), config.bm25, label="index: bm25")
    if vectors.manifest.notes.get("passages"):
        PassageDocuments.read(blocks.files).save(join(out, passage_documents.FILE))
    share, rate = measure(blocks, config.index.open(path, config.threads), config.top_k, config.sample)
    say(
        f"index: {out}: {blocks.count:,} vectors as {config.index.type} in {seconds:.1f} s, {size / 2**20:,.1f} MiB, "
        f"recall@{config.top_k} {share:.4f} of exact search, {rate:,.0f} queries/s"
    )
    return draft.finish(
        list(files),
        index=config.index.model_dump(mode="json"),
        recall=share,
        top_k=config.top_k,
        bytes=size,
        dim=blocks.dim,
        bm25=config.bm25.model_dump() if config.bm25 else None,
        **{name: vectors.manifest.notes.get(name) for name in ("encoder", "model", "passages")},
    )


def _documents(config: IndexConfig, vectors: Artifact) -> tuple[VectorDocuments, VectorDocuments | None]:
    """Rows that go with the vectors, and whole documents with texts for BM25: the same unless these are passages."""
    rows = VectorDocuments(vectors.files("vectors"))
    if config.bm25 is None:
        return rows, None
    texts = VectorDocuments.with_texts(vectors, config.data or join(config.run, "data"))
    return (rows if texts.by_document else texts), texts


def _write_documents(draft: Draft, name: str, documents: VectorDocuments) -> list[str]:
    """Write a table of documents, from which a search reads a few rows at a time; return its files."""
    return [
        draft.write(name, table, number, group_rows=GROUP_ROWS)
        for number, table in enumerate(documents.parts(SHARD_ROWS))
    ]


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
