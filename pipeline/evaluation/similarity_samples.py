"""Single similarities that the corpus pass brings along: of triplets, and of relevant, hard and random pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.dataset import Document, Questions, Triplet
from pipeline.metrics.retrieval import relevant

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SAMPLE = 2000  # pairs of a kind in the report's histograms
BM25_NEGATIVES = 5


@dataclass
class Probes:
    """Pairs (text, document row) whose cosine is wanted, in named parts.

    A row of -1 - i is the i-th of `loose`: documents of triplets that the corpus does not hold.
    """

    text: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    parts: dict[str, slice] = field(default_factory=dict)
    owner: list[int] = field(default_factory=list)  # triplet of each pair of the part "negative"
    loose: list[str] = field(default_factory=list)
    loose_places: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, pairs: Sequence[tuple[int, int]]) -> None:
        """Ask for the similarities of (text, row) pairs under a name."""
        start = len(self.text)
        self.text.extend(text for text, _ in pairs)
        self.row.extend(row for _, row in pairs)
        self.parts[name] = slice(start, len(self.text))

    def locate(self, document: Document, rows: Mapping[str, int]) -> int:
        """Row of a document, by its id; a document that the corpus lacks is kept by its text."""
        doc_id, text = document
        if doc_id is not None and doc_id in rows:
            return rows[doc_id]
        if text not in self.loose_places:
            self.loose_places[text] = len(self.loose)
            self.loose.append(text)
        return -1 - self.loose_places[text]

    def arrays(self) -> tuple[Rows, Rows]:
        """Texts [P] and rows [P]."""
        return np.array(self.text, np.int64), np.array(self.row, np.int64)


def lexical_triplets(
    questions: Questions, rankings: Mapping[str, Sequence[str]], rows: Mapping[str, int]
) -> list[Triplet]:
    """Make triplets of a split that brings none: best relevant document against BM25's best that are not relevant.

    BM25 chooses them, not a compared model: a model that chose its own would look worse on its own choice.
    """
    made = []
    for place, query in enumerate(questions.query_ids):
        grades = questions.judgments[query]
        right = next((doc for doc in relevant(grades) if doc in rows), None)
        wrong = [doc for doc in rankings.get(query, ()) if grades.get(doc, 0) <= 0][:BM25_NEGATIVES]
        if right and wrong:
            made.append(Triplet(place, (right, ""), [(doc, "") for doc in wrong]))
    return made


def wanted_ids(questions: Questions) -> set[str]:
    """Ids of all documents that probes and judgments name."""
    ids = {doc for query in questions.query_ids for doc in relevant(questions.judgments[query])}
    for triplet in questions.triplets:
        ids.update(doc_id for doc_id, _ in [triplet.positive, *triplet.negatives] if doc_id is not None)
    return ids


def make_probes(questions: Questions, rows: Mapping[str, int], corpus_rows: int, seed: int) -> Probes:
    """Ask for the similarities of all triplets, of up to 2,000 relevant pairs and of as many random pairs."""
    probes = Probes()
    probes.add("positive", [(t.anchor, probes.locate(t.positive, rows)) for t in questions.triplets])
    negatives = [
        (number, triplet.anchor, probes.locate(document, rows))
        for number, triplet in enumerate(questions.triplets)
        for document in triplet.negatives
    ]
    probes.owner = [number for number, _, _ in negatives]
    probes.add("negative", [(anchor, row) for _, anchor, row in negatives])
    probes.add("relevant", _relevant_pairs(questions, rows)[:SAMPLE])
    probes.add("random", _random_pairs(questions, rows, corpus_rows, seed))
    return probes


def _relevant_pairs(questions: Questions, rows: Mapping[str, int]) -> list[tuple[int, int]]:
    """Each query with its best relevant document that the corpus holds."""
    pairs = []
    for place, query in enumerate(questions.query_ids):
        held = [rows[doc] for doc in relevant(questions.judgments[query]) if doc in rows]
        pairs.extend([(place, held[0])] if held else [])
    return pairs


def _random_pairs(questions: Questions, rows: Mapping[str, int], corpus_rows: int, seed: int) -> list[tuple[int, int]]:
    """Pair each query with a random document that is not relevant to it."""
    rng = np.random.default_rng(seed)
    pairs = []
    for place, query in enumerate(questions.query_ids[:SAMPLE]):
        right = {rows[doc] for doc in relevant(questions.judgments[query]) if doc in rows}
        row = int(rng.integers(0, max(1, corpus_rows)))
        if corpus_rows and row not in right:
            pairs.append((place, row))
    return pairs
