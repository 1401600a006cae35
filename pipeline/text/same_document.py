"""When two rows are the same: equal ids, or equal texts but for case and white space.

Mining, evaluation and validation share this rule: a document that is the query itself is no candidate, and is neither
ranked nor counted, as BEIR and MTEB have it for equal ids.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.text.normalize import folded, hash64, normalise

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


def text_keys(texts: Sequence[str]) -> Keys:
    """Keys [N] of normalised texts, the same for texts that differ in case or white space only; never 0."""
    return np.fromiter((hash64(folded(normalise(text))) | 1 for text in texts), np.uint64, len(texts))


def id_keys(ids: Sequence[str | None]) -> Keys:
    """Keys [N] of ids; 0 for none."""
    return np.fromiter((0 if name is None else hash64(name) | 1 for name in ids), np.uint64, len(ids))


def join_keys(owners: Rows, keys: Keys, documents: Keys) -> tuple[Rows, Rows]:
    """Join keys (owners [M], keys [M]) with the keys of documents [N]: every (owner, document row) of equal keys.

    Key 0 stands for none and matches nothing.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.searchsorted(ordered, documents, "left")
    count = np.searchsorted(ordered, documents, "right") - first
    count[documents == 0] = 0
    matched = np.flatnonzero(count)
    rows = np.repeat(matched, count[matched])
    step = np.arange(len(rows)) - np.repeat(np.cumsum(count[matched]) - count[matched], count[matched])
    return owners[order[first[rows] + step]], rows


class SelfMatches:
    """Finds the documents that are one of some queries themselves, in batches of a corpus.

    A document with the id of a query but another text is not the query where `qrels` call it relevant: then ids are
    running numbers, and the answer has the number of its question.
    """

    def __init__(self, ids: Sequence[str], texts: Sequence[str], qrels: Mapping[str, Mapping[str, float]]) -> None:
        self.query_ids, self.qrels = ids, qrels
        self._rows = np.arange(len(ids))
        self._id_keys, self._text_keys = id_keys(ids), text_keys(texts)

    def find(self, doc_ids: Sequence[str], texts: Sequence[str]) -> list[tuple[str, int]]:
        """Query ids and indices of the documents [N] that are the query: same text, or same id and not relevant."""
        by_text = join_keys(self._rows, self._text_keys, text_keys(texts))
        by_id = join_keys(self._rows, self._id_keys, id_keys(doc_ids))
        pairs = set(zip(by_text[0].tolist(), by_text[1].tolist(), strict=True))
        pairs |= {
            (query, row)
            for query, row in zip(by_id[0].tolist(), by_id[1].tolist(), strict=True)
            if self.qrels.get(self.query_ids[query], {}).get(doc_ids[row], 0) <= 0
        }
        return [(self.query_ids[query], row) for query, row in sorted(pairs)]
