"""The round trip: at which rank a search for a generated query finds the document that it was made of.

All documents are searched, exactly: by an encoder, whose vectors are those of an embedding, and by BM25.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.actor_pool import limit_threads
from pipeline.encoder.encoder import Encoder
from pipeline.generation.config import RoundTrip
from pipeline.search.bm25_index import BM25Index
from pipeline.search.exact import top_k
from pipeline.storage import shards
from pipeline.storage.vectors import comparable, stream_vectors

Rows = npt.NDArray[np.int64]
Ranks = npt.NDArray[np.int32]  # [Q] from 1; 0: not among the first


@dataclass(frozen=True)
class SearchTask:
    """Where what is searched lies: files of vectors, and a BM25 index of a table of documents."""

    round_trip: RoundTrip
    vectors: list[str]
    bm25: str
    documents: list[str]  # Parquet files that BM25 has indexed, in order
    id_column: str  # of these

    def open(self, threads: int) -> "DocumentSearch":
        """Load the encoder and open the index."""
        limit_threads(threads)
        return DocumentSearch(self)


class DocumentSearch:
    """Looks for the documents of queries."""

    def __init__(self, task: SearchTask) -> None:
        self.task, self.round_trip = task, task.round_trip
        self.encoder = Encoder.load(self.round_trip.encoder) if "encoder" in self.round_trip.by else None
        self.bm25 = BM25Index.load(task.bm25) if "bm25" in self.round_trip.by else None

    def ranks(self, queries: Sequence[str], doc_ids: Sequence[str]) -> dict[str, Ranks]:
        """Ranks of the documents of queries [Q], by what searched."""
        ranks: dict[str, Ranks] = {}
        count = self.round_trip.top_k
        if self.encoder is not None:
            similarity = self.encoder.similarity
            vectors = comparable(self.encoder.encode(list(queries), "query"), similarity)
            blocks = (comparable(block, similarity) for block in stream_vectors(self.task.vectors))
            hits = top_k(vectors.astype(np.float32), blocks, count)[1]
            ranks["encoder"] = _ranks(hits, row_numbers(self.task.vectors, "id", doc_ids))
        if self.bm25 is not None:
            own_rows = row_numbers(self.task.documents, self.task.id_column, doc_ids)
            ranks["bm25"] = _ranks(self.bm25.top_k(queries, count).rows, own_rows)
        return ranks

    def hits(self, ranks: dict[str, Ranks]) -> npt.NDArray[np.bool_]:
        """Which queries [Q] have found their document, by any or by all of the searches."""
        masks = np.stack([of_search > 0 for of_search in ranks.values()])
        needed = 1 if self.round_trip.found_by == "any" else len(masks)
        hits: npt.NDArray[np.bool_] = masks.sum(axis=0) >= needed
        return hits


def _ranks(hits: Rows, own_rows: Rows) -> Ranks:
    """Rank [Q] of a row [Q] among the rows found [Q, k]; 0 where it is not there."""
    hit = (hits == own_rows[:, None]) & (own_rows >= 0)[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0).astype(np.int32)


def row_numbers(files: Sequence[str], column: str, ids: Sequence[str]) -> Rows:
    """Rows [Q] at which ids stand in a column of files that follow each other; -1 where they do not."""
    encoded = pa.array(ids, pa.string()).dictionary_encode()
    rows = np.full(len(encoded.dictionary), -1, np.int64)
    start = 0
    for table in shards.read_batches(files, [column]):
        names = shards.string_column(table, column, files[0], numbers=True).combine_chunks()
        positions = pc.index_in(encoded.dictionary, value_set=names)
        here = positions.is_valid().to_numpy(zero_copy_only=False)
        rows[here] = positions.drop_null().to_numpy() + start
        start += table.num_rows
    numbers: Rows = rows[encoded.indices.to_numpy()]
    return numbers
