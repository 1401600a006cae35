"""BM25, the lexical search: its settings, its formulas, and the postings of one shard under a corpus' statistics."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from pipeline.core.config import Config
from pipeline.core.settings import nearest
from pipeline.search.exact import Floats, Rows
from pipeline.search.term_counts import CorpusStatistics, Ints, TermCounts, Terms
from pipeline.text.analyzer import languages

DELTA = 0.5  # of BM25L, the default of bm25s
Method = Literal["lucene", "robertson", "atire", "bm25l", "bm25+"]
Values = npt.NDArray[np.float64]
_ARRAYS = ("terms", "starts", "rows", "weights")


class BM25Config(Config):
    """How texts are cut into words, and how much each word of a document counts."""

    language: str = Field(
        "english", description="of stop words and stems (Snowball); none: lower-cased words as they are"
    )
    method: Method = Field("lucene", description="which BM25, by the names of bm25s")
    k1: float = Field(1.2, ge=0, description="the higher, the more further occurrences of a word count")
    b: float = Field(0.75, ge=0, le=1, description="how far long documents are held back: 0 not at all")

    @field_validator("language")
    @classmethod
    def _known(cls, language: str) -> str:
        if language not in (known := languages()):
            near = nearest(language, known)
            hint = f"did you mean {near}? " if near else ""
            raise ValueError(f"no stemmer knows this language; {hint}choose from {', '.join(known)}")
        return language

    @classmethod
    def switched(cls, value: Any) -> Any:
        """Let true and false, as words of a flag too, mean the default settings and none."""
        return {"true": cls(), "false": None}.get(str(value).lower(), value)

    def plain(self) -> "BM25Config":
        """These settings alone, without those of a section that adds some of its own."""
        return BM25Config(**{name: getattr(self, name) for name in BM25Config.model_fields})


@dataclass(frozen=True)
class Formula:
    """One BM25: the weight of terms by the documents that hold them [V], and how counts [P] saturate.

    `saturation` takes the counts, their documents' lengths as 1 - b + b length / mean length, and k1.
    """

    idf: Callable[[Ints, int], Values]
    saturation: Callable[[Values, Values, float], Values]


def _lucene(counts: Values, length: Values, k1: float) -> Values:
    return counts / (k1 * length + counts)


def _atire(counts: Values, length: Values, k1: float) -> Values:
    return (k1 + 1) * _lucene(counts, length, k1)


def _bm25l(counts: Values, length: Values, k1: float) -> Values:
    """Saturation above that of a document without the term, which is the same for all documents."""
    shifted = counts / length + DELTA
    return (k1 + 1) * shifted / (k1 + shifted) - (k1 + 1) * DELTA / (k1 + DELTA)


FORMULAS = {  # Kamphuis et al. 2020, "Which BM25 do you mean?"
    "lucene": Formula(lambda df, n: np.log(1 + (n - df + 0.5) / (df + 0.5)), _lucene),
    "robertson": Formula(lambda df, n: np.log(np.maximum(1, (n - df + 0.5) / (df + 0.5))), _lucene),
    "atire": Formula(lambda df, n: np.log(n / df), _atire),
    "bm25l": Formula(lambda df, n: np.log((n + 1) / (df + 0.5)), _bm25l),
    "bm25+": Formula(lambda df, n: np.log((n + 1) / df), _atire),
}


@dataclass(frozen=True)
class Postings:
    """Weights of the terms of documents that follow each other, in the layout of `TermCounts`.

    The score of a document is the sum of the weights of a query's words; a word that the query repeats counts as often.
    """

    terms: Terms
    starts: Ints
    rows: npt.NDArray[np.int32]
    weights: Floats
    documents: int

    @classmethod
    def weigh(cls, counts: TermCounts, statistics: CorpusStatistics, config: BM25Config) -> "Postings":
        """Postings of a shard under the statistics of its whole corpus: the same numbers in any division of it."""
        formula, b = FORMULAS[config.method], config.b
        length: Values = 1 - b + b * counts.lengths.astype(np.float64) / statistics.mean_length
        saturation = formula.saturation(counts.counts.astype(np.float64), length[counts.rows], config.k1)
        idf = formula.idf(statistics.frequencies_of(counts.terms), statistics.documents)
        weights = (np.repeat(idf, np.diff(counts.starts)) * saturation).astype(np.float32)
        return cls(counts.terms, counts.starts, counts.rows, weights, len(counts.lengths))

    def scores(self, terms: Terms) -> Floats:
        """Score every document [N] for the terms of a query; 0 where no word is shared."""
        scores = np.zeros(self.documents, np.float32)
        positions = np.searchsorted(self.terms, terms)
        for position, term in zip(positions.tolist(), terms.tolist(), strict=True):
            if position < len(self.terms) and self.terms[position] == term:
                span = slice(self.starts[position], self.starts[position + 1])
                scores[self.rows[span]] += self.weights[span]
        return scores

    def save(self, folder: Path) -> None:
        """Write the arrays into a folder, each as a file that can be mapped into memory."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, documents: int) -> "Postings":
        """Map what `save` wrote; only what queries ask for is read."""
        return cls(**{name: np.load(folder / f"{name}.npy", "r") for name in _ARRAYS}, documents=documents)


def best_rows(scores: Floats, k: int, excluded: Rows | Iterable[int] = ()) -> Rows:
    """Rows of the k best scores [N] above 0 that are not excluded, best first; of equal ones the lower row."""
    allowed = scores.copy()
    allowed[np.fromiter(excluded, np.int64)] = 0
    matching = np.flatnonzero(allowed > 0)
    if len(matching) > k:
        bar = np.partition(allowed[matching], len(matching) - k)[len(matching) - k]
        matching = matching[allowed[matching] >= bar]
    return matching[np.lexsort((matching, -allowed[matching]))[:k]]
