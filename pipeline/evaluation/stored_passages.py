"""Passages that the embedding job has stored: ranked in Ray tasks, without a model and without the texts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.core import tasks
from pipeline.core.progress import Progress
from pipeline.core.schema import PASSAGE
from pipeline.evaluation.corpus import VECTOR_ROWS, Corpus, CorpusChunk, open_embedding, overlap
from pipeline.evaluation.passages import PassageRanking
from pipeline.evaluation.ranking import RankedQueries
from pipeline.search.best_passages import top_documents
from pipeline.search.exact import TopK
from pipeline.search.passage_documents import PassageDocuments
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.vectors import to_matrix

START = PASSAGE.names[1]
_SETTINGS = ("tokens", "overlap", "full_text", "late")


def stored_passages(
    path: str, data: Artifact, corpus: Corpus, identity: dict[str, str], ranking: PassageRanking
) -> list[CorpusChunk] | None:
    """Find passages of just this corpus, encoder and cut, float32 and in corpus order; None where there are none.

    A chunk holds whole documents, of which `first_row` is the first.
    """
    artifact = open_embedding(path, data, identity)
    if artifact is None:
        return None
    notes = artifact.manifest.notes
    cut = notes.get("passages") or {}
    if any(cut.get(name) != getattr(ranking, name) for name in _SETTINGS) or notes.get("documents") != len(corpus):
        return None
    passages = PassageTable(artifact)
    return passages.document_chunks(VECTOR_ROWS) if passages.order() == corpus.order() else None


class PassageTable(Corpus):
    """A table of passages, in which documents are runs of rows."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact, "vectors", "id")

    def batches(self, columns: list[str]) -> Iterator[tuple[int, Any]]:
        """Stream the first passage of each document, in batches with the number of their first document."""
        document = 0
        for table in shards.read_batches(self.files, [*columns, START]):
            first = table.filter(pc.equal(table[START], 0))
            yield document, first
            document += first.num_rows

    def document_chunks(self, rows: int) -> list[CorpusChunk]:
        """Cut the table into chunks of whole documents, each of so many passages or of one document more."""
        files = shards.plan(self.files, max(1, len(self)), "evaluate")
        ends = np.cumsum([0, *(shard.rows for shard in files)]).tolist()
        starts = PassageDocuments.read(self.files).starts
        chunks, document = [], 0
        while document < len(starts):
            first = int(starts[document])
            following = int(np.searchsorted(starts, first + rows))
            last = int(starts[following]) if following < len(starts) else len(self)
            chunks.append(CorpusChunk(tuple(overlap(files, ends, first, last)), document, "vector"))
            document = following
        return chunks


def rank_stored(vectors: Any, chunks: Sequence[CorpusChunk], ranked: RankedQueries, k: int) -> TopK:
    """Rank stored passages for the queries among `vectors`, a reference to those of all texts [T, D].

    The numbers do not depend on how the table is cut.
    """
    best, shared = TopK.empty(len(ranked.texts), k), tasks.put(ranked)
    with Progress("evaluate: passages", sum(chunk.rows for chunk in chunks), "passages") as progress:
        for passages, of_chunk in tasks.results(_rank_chunk, [(chunk, vectors, shared, k) for chunk in chunks]):
            best.merge(of_chunk)
            progress.add(passages)
    return best


def _rank_chunk(chunk: CorpusChunk, vectors: Any, ranked: RankedQueries, k: int) -> tuple[int, TopK]:
    """Number of passages of a chunk, and the best documents in it."""
    owners = np.cumsum(replace(chunk, column=START).read().to_numpy() == 0) - 1 + chunk.first_row
    passages = to_matrix(chunk.read())
    return chunk.rows, top_documents(vectors[ranked.texts], passages, owners, k, ranked.excluded)
