"""How often terms occur in documents: what BM25 is computed from, shard by shard, with statistics that add up.

A term is the 64-bit hash of a word, so that every array here is plain numbers: with ten million distinct words, the
chance that any two of them meet is one in 400,000.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.text.analyzer import Analyzer
from pipeline.text.normalize import hash64

Terms = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_BATCH = 1024  # documents whose words are in memory at a time, before they are counted
_NO_PAIRS = np.zeros((3, 0), np.int64)


@dataclass(frozen=True)
class CorpusStatistics:
    """Of a whole corpus: documents, words, and of terms [V], in rising order, in how many documents they occur [V]."""

    documents: int
    words: int
    terms: Terms
    frequencies: Ints

    @property
    def mean_length(self) -> float:
        """Words of a document on average; 1 where there is none, which divides nothing."""
        return self.words / self.documents if self.words else 1.0

    def frequencies_of(self, terms: Terms) -> Ints:
        """Document frequencies [T] of terms [T], all of which occur."""
        return self.frequencies[np.searchsorted(self.terms, terms)]

    @classmethod
    def add(cls, parts: Sequence["CorpusStatistics"]) -> "CorpusStatistics":
        """Statistics of a corpus from those of its parts, of which there is at least one."""
        terms, index = np.unique(np.concatenate([part.terms for part in parts]), return_inverse=True)
        frequencies = np.zeros(len(terms), np.int64)
        np.add.at(frequencies, index, np.concatenate([part.frequencies for part in parts]))
        return cls(sum(part.documents for part in parts), sum(part.words for part in parts), terms, frequencies)


@dataclass(frozen=True)
class TermCounts:
    """Counts of documents that follow each other, by term.

    Term terms[v] occurs counts[p] times in document rows[p], for p from starts[v] to before starts[v + 1]; terms [V]
    and the rows of a term rise. `lengths` [N] are the words of each document.
    """

    terms: Terms
    starts: Ints
    rows: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]

    @classmethod
    def count(cls, texts: Iterable[str], analyzer: Analyzer, vocabulary: Collection[str] | None = None) -> "TermCounts":
        """Count the words of texts, or only those of a vocabulary; lengths are of the whole documents in any case."""
        number: dict[str, int] = defaultdict(lambda: len(number))
        number.update({word: index for index, word in enumerate(vocabulary or ())})
        lengths: list[int] = []
        parts = [_NO_PAIRS]
        for batch in batches(texts, _BATCH):
            documents = [analyzer.words(text) for text in batch]
            first_row = len(lengths)
            lengths.extend(map(len, documents))
            if vocabulary is not None:
                documents = [[word for word in words if word in number] for words in documents]
            parts.append(_distinct_pairs(documents, number, first_row))
        word, row, counts = np.concatenate(parts, axis=1)
        term = hash_terms(number)[word]
        order = np.lexsort((row, term))
        terms, starts = np.unique(term[order], return_index=True)
        rows, counts = row[order].astype(np.int32), counts[order].astype(np.int32)
        return cls(terms, np.append(starts, len(term)), rows, counts, np.array(lengths, np.int32))

    @property
    def statistics(self) -> CorpusStatistics:
        """What other shards have to know of this one."""
        words = int(self.lengths.sum(dtype=np.int64))
        return CorpusStatistics(len(self.lengths), words, self.terms, np.diff(self.starts))

    def save(self, path: Path) -> None:
        """Write the arrays into one file."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "TermCounts":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def _distinct_pairs(documents: list[list[str]], number: dict[str, int], first_row: int) -> Ints:
    """Word, row and count [3, P] of each word of each document."""
    words = np.array([number[word] for document in documents for word in document], np.int64)
    row = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    pairs, counts = np.unique(words << 32 | row, return_counts=True)
    return np.stack([pairs >> 32, (pairs & 0xFFFFFFFF) + first_row, counts])


def hash_terms(words: Iterable[str]) -> Terms:
    """Terms [W] of words."""
    return np.fromiter((hash64(word) for word in words), np.uint64)


def batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Texts in lists of `size`; the last may be shorter."""
    remaining = iter(texts)
    while batch := list(islice(remaining, size)):
        yield batch
