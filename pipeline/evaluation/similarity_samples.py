"""Pairs whose cosine is computed while the corpus is ranked: of triplets, and of relevant, hard and random pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.dataset import Document, EvalDataset, Triplet
from pipeline.metrics.retrieval import relevant

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SAMPLE = 2000  # pairs of a kind in the report's histograms
BM25_NEGATIVES = 5


@dataclass
class SimilarityPairs:
    """Pairs (index of a text, row of a document) whose cosine is computed, in named groups.

    A row of -1 - i is the i-th of `extra_documents`: documents of triplets that the corpus lacks.
    """

    text: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    groups: dict[str, slice] = field(default_factory=dict)
    triplet_of_negative: list[int] = field(default_factory=list)  # number of the triplet, for each pair of "negative"
    extra_documents: list[str] = field(default_factory=list)
    _extra_index: dict[str, int] = field(default_factory=dict)

    def add(self, group: str, pairs: Sequence[tuple[int, int]]) -> None:
        """Add (text, row) pairs as a group."""
        start = len(self.text)
        self.text.extend(text for text, _ in pairs)
        self.row.extend(row for _, row in pairs)
        self.groups[group] = slice(start, len(self.text))

    def locate(self, document: Document, rows: Mapping[str, int]) -> int:
        """Row of a document, by its id; one that the corpus lacks joins the extra documents, by its text."""
        doc_id, text = document
        if doc_id is not None and doc_id in rows:
            return rows[doc_id]
        if text not in self._extra_index:
            self._extra_index[text] = len(self.extra_documents)
            self.extra_documents.append(text)
        return -1 - self._extra_index[text]

    def arrays(self) -> tuple[Rows, Rows]:
        """Texts [P] and rows [P]."""
        return np.array(self.text, np.int64), np.array(self.row, np.int64)


def bm25_triplets(
    dataset: EvalDataset, rankings: Mapping[str, Sequence[str]], rows: Mapping[str, int]
) -> list[Triplet]:
    """Make triplets of a split that brings none: best relevant document against BM25's best that are not relevant.

    BM25 chooses them, not a compared model: a model that chose its own would look worse on its own choice.
    """
    triplets = []
    for index, query in enumerate(dataset.query_ids):
        grades = dataset.qrels[query]
        positive = next((doc for doc in relevant(grades) if doc in rows), None)
        negatives = [doc for doc in rankings.get(query, ()) if grades.get(doc, 0) <= 0][:BM25_NEGATIVES]
        if positive and negatives:
            triplets.append(Triplet(index, (positive, ""), [(doc, "") for doc in negatives]))
    return triplets


def referenced_ids(dataset: EvalDataset) -> set[str]:
    """Ids of all documents that judgments call relevant or triplets hold."""
    ids = {doc for query in dataset.query_ids for doc in relevant(dataset.qrels[query])}
    for triplet in dataset.triplets:
        ids.update(doc_id for doc_id, _ in [triplet.positive, *triplet.negatives] if doc_id is not None)
    return ids


def sample_pairs(dataset: EvalDataset, rows: Mapping[str, int], corpus_rows: int, seed: int) -> SimilarityPairs:
    """Choose the pairs: of all triplets, of up to 2,000 queries with a relevant and with a random document."""
    pairs = SimilarityPairs()
    pairs.add("positive", [(t.anchor, pairs.locate(t.positive, rows)) for t in dataset.triplets])
    negatives = [
        (number, triplet.anchor, pairs.locate(document, rows))
        for number, triplet in enumerate(dataset.triplets)
        for document in triplet.negatives
    ]
    pairs.triplet_of_negative = [number for number, _, _ in negatives]
    pairs.add("negative", [(anchor, row) for _, anchor, row in negatives])
    pairs.add("relevant", _relevant_pairs(dataset, rows)[:SAMPLE])
    pairs.add("random", _random_pairs(dataset, rows, corpus_rows, seed))
    return pairs


def _relevant_pairs(dataset: EvalDataset, rows: Mapping[str, int]) -> list[tuple[int, int]]:
    """Each query with its best relevant document that is in the corpus."""
    pairs = []
    for index, query in enumerate(dataset.query_ids):
        in_corpus = [rows[doc] for doc in relevant(dataset.qrels[query]) if doc in rows]
        pairs.extend([(index, in_corpus[0])] if in_corpus else [])
    return pairs


def _random_pairs(dataset: EvalDataset, rows: Mapping[str, int], corpus_rows: int, seed: int) -> list[tuple[int, int]]:
    """Pair each query with a random document that is not relevant to it."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index, query in enumerate(dataset.query_ids[:SAMPLE]):
        relevant_rows = {rows[doc] for doc in relevant(dataset.qrels[query]) if doc in rows}
        row = int(rng.integers(0, max(1, corpus_rows)))
        if corpus_rows and row not in relevant_rows:
            pairs.append((index, row))
    return pairs
