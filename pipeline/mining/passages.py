"""Mining by passages: a document is as near to an anchor as its best passage.

Keys, exclusions, clusters and the likeness of two documents stay those of whole documents, one row each; beside their
vectors there is a file of passages for each shard, a group of whole documents in each of its row groups.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.encoder.encoder import Encoder
from pipeline.encoder.passage_vectors import CutDocuments, groups, mixed
from pipeline.encoder.passages import PassageCutter, PassagesConfig
from pipeline.mining.candidate_arrays import Floats, Rows
from pipeline.mining.candidates import ScoredCandidates
from pipeline.mining.exclusions import AnchorBlock
from pipeline.search.approximate import approximate_documents, recall
from pipeline.search.best_passages import score_documents, top_documents_of
from pipeline.search.exact import TopK
from pipeline.search.index import SearchIndex
from pipeline.storage import shards
from pipeline.storage.vectors import to_matrix, vectors_table

_BLOCK_ROWS = 16_384  # passages that are searched at once, at least


def passage_tables(
    encoder: Encoder,
    config: PassagesConfig,
    texts: Sequence[str],
    text_vectors: Floats,
    turn: AbstractContextManager[object],
) -> Iterator[pa.Table]:
    """Yield the passages of documents, whose vectors [N, D] are `text_vectors`: row of the document, and vector.

    A table holds a group of whole documents; there is one at least. The encoder computes while `turn` is held.
    """
    cutter = PassageCutter(encoder, config)
    for part in [*groups(texts)] or [slice(0, 0)]:
        cut = CutDocuments.cut(cutter, texts[part])
        with turn:
            passage_vectors = cut.vectors(encoder, text_vectors[part])
        vectors = mixed(passage_vectors, text_vectors[part], cut.owners, config.full_text)
        owners = pa.chunked_array([pa.array(cut.owners + part.start)])
        yield vectors_table(owners, vectors, "float16").rename_columns(["owner", "vector"])


def commit_passages(folder: str, key: str, tables: Iterator[pa.Table]) -> None:
    """Write passages into one file, a row group a table."""
    shards.commit_stream(folder, key, tables, dict, group_rows=1 << 30)


@dataclass(frozen=True)
class EncodedPassages:
    """Files of passages in the order of the corpus, and the documents that each is of."""

    files: list[str]
    documents: list[int]

    def __iter__(self) -> Iterator[tuple[Floats, Rows]]:
        """Yield passages [P, D] and the corpus rows [P] of their documents; no document is in two blocks."""
        pending: list[tuple[Floats, Rows]] = []
        first = 0
        for file, documents in zip(self.files, self.documents, strict=True):
            for table in shards.read_batches([file], ["owner", "vector"]):
                if len(table):
                    pending.append((to_matrix(table["vector"]), table["owner"].to_numpy() + first))
                if sum(len(owners) for _, owners in pending) >= _BLOCK_ROWS:
                    yield _joined(pending)
                    pending = []
            first += documents
        if pending:
            yield _joined(pending)

    @property
    def owners(self) -> Rows:
        """Corpus row of the document of each passage, in order; 8 bytes each."""
        firsts = np.cumsum([0, *self.documents])
        parts = [
            table["owner"].to_numpy() + first
            for file, first in zip(self.files, firsts, strict=False)
            for table in shards.read_batches([file], ["owner"])
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def nearest(
        self, block: AnchorBlock, k: int, excluded: tuple[Rows, Rows] | None, index: SearchIndex | None = None
    ) -> TopK:
        """The documents [A, k] with the nearest passages, by corpus row; exact without an index."""
        if index is None:
            return top_documents_of(block.vectors, self, k, excluded)
        return approximate_documents(index, block.vectors, self, self.owners, k, excluded)

    def score(self, block: AnchorBlock, candidates: ScoredCandidates) -> ScoredCandidates:
        """Candidates with the scores of their best passages, and those of the positives; their order stays."""
        with_positive = np.flatnonzero(candidates.positive_rows >= 0)
        pairs = np.concatenate([candidates.pairs, with_positive])
        rows = np.concatenate([candidates.rows, candidates.positive_rows[with_positive]])
        scores = score_documents(block.vectors, self, block.pair_anchor[pairs], rows)
        positive = candidates.positive_scores.copy()
        positive[with_positive] = scores[len(candidates.rows) :]
        return replace(candidates, scores=scores[: len(candidates.rows)], positive_scores=positive)

    def recall(self, index: SearchIndex, anchors: Floats, k: int) -> tuple[int, int]:
        """Return how many of the exact k nearest documents of anchors [A, D] the index finds, and how many exist."""
        exact = top_documents_of(anchors, self, k).rows
        return recall(approximate_documents(index, anchors, self, self.owners, k).rows, exact)


def _joined(parts: Sequence[tuple[Floats, Rows]]) -> tuple[Floats, Rows]:
    return np.concatenate([vectors for vectors, _ in parts]), np.concatenate([owners for _, owners in parts])
