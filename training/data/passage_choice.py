"""Of long documents the passage that training sees: the one that a model finds nearest to the row's query.

Texts are cut to `max_length` in training, so that a query whose answer stands further down would be pulled towards what
it does not ask for. Where a source says where the answer stands, `build` has made a document of that passage already
(`squad` with `passage_chars`). Elsewhere nobody knows, and the model has to say: the one that training starts from, or
a better one that is named. It chooses once, before the first step: a choice by the model of every moment would make an
epoch depend on when it was composed, and rows are tokenised once for all epochs and numbers of workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.encoder.encoder import Encoder, EncoderConfig, Role
from pipeline.encoder.passage_vectors import groups
from pipeline.encoder.passages import PassageCut, PassageCutter, passages
from pipeline.search.best_passages import passages_of
from pipeline.search.exact import pairwise_dot
from pipeline.storage.vectors import comparable
from training.data.batching import Ints
from training.data.rows import Rows

Floats = npt.NDArray[np.float32]


class TrainPassages(PassageCut):
    """How documents are cut in training, and which model chooses among their passages."""

    encoder: EncoderConfig | None = Field(
        None, description="chooses the passage nearest to the query; default: the model that training begins with"
    )


@dataclass(frozen=True)
class PassageChoice:
    """Replaces the documents of rows by one passage each."""

    cutter: PassageCutter
    chooser: Encoder

    def __call__(self, rows: Rows) -> Rows:
        """Return rows whose positives and negatives are the passages nearest to their queries; of equal ones the first.

        Ids stay those of the documents. A document of one passage stays as it is.
        """
        negatives = list(chain.from_iterable(rows.negatives))
        counts = [len(row) for row in rows.negatives]
        of_negatives = [anchor for anchor, count in zip(rows.anchors, counts, strict=True) for _ in range(count)]
        chosen = self.choose([*rows.anchors, *of_negatives], [*rows.positives, *negatives])
        remaining = iter(chosen[len(rows) :])
        return replace(
            rows, positives=chosen[: len(rows)], negatives=[[next(remaining) for _ in range(n)] for n in counts]
        )

    def choose(self, queries: Sequence[str], documents: Sequence[str]) -> list[str]:
        """Passage of each document [N] that is nearest to the query [N] beside it; every text is computed once."""
        texts, document = _distinct(documents)
        order = np.argsort(document, kind="stable")
        chosen = list(documents)
        for number, cut in self._several(texts):
            pairs = order[slice(*np.searchsorted(document[order], [number[0], number[-1] + 1]))]
            pairs = pairs[np.isin(document[pairs], number)]
            best = self._nearest([queries[pair] for pair in pairs], document[pairs], number, cut)
            for pair, text in zip(pairs.tolist(), best, strict=True):
                chosen[pair] = text
        return chosen

    def _several(self, texts: list[str]) -> Iterator[tuple[Ints, list[list[str]]]]:
        """Numbers and passages of the texts that have more than one, a group of texts at a time."""
        for part in groups(texts):
            cut = [passages(text, spans) for text, spans in zip(texts[part], self.cutter.cut(texts[part]), strict=True)]
            number = np.array([index for index, of_text in enumerate(cut) if len(of_text) > 1], np.int64)
            if len(number):
                yield number + part.start, [cut[index] for index in number]

    def _nearest(self, queries: list[str], document: Ints, number: Ints, cut: list[list[str]]) -> list[str]:
        """Nearest passage of each document to its query, out of the passages of the documents of these numbers."""
        flat = list(chain.from_iterable(cut))
        owners = np.repeat(number, [len(of_text) for of_text in cut])
        distinct, query = _distinct(queries)
        query_vectors, passage_vectors = self._encode(distinct, "query"), self._encode(flat, "document")
        pair, passage = passages_of((np.arange(len(queries)), document), owners)
        scores = pairwise_dot(query_vectors, passage_vectors, query[pair], passage)
        order = np.lexsort((passage, -scores, pair))
        best = passage[order][np.unique(pair[order], return_index=True)[1]]
        return [flat[index] for index in best.tolist()]

    def _encode(self, texts: list[str], role: Role) -> Floats:
        return comparable(self.chooser.encode(texts, role), self.chooser.similarity)


def _distinct(texts: Sequence[str]) -> tuple[list[str], Ints]:
    """Each text once, in order, and the number of each."""
    number_of: dict[str, int] = {}
    numbers = np.array([number_of.setdefault(text, len(number_of)) for text in texts], np.int64)
    return list(number_of), numbers
