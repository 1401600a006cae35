"""BM25 over the whole corpus in tasks: one task a chunk counts the words of the queries, another one ranks.

Between the two the driver adds up the statistics of these words, so that a chunk is scored as a part of one index over
all. The counts wait in Ray's object store, which writes to disk what memory does not hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core import tasks
from pipeline.core.progress import Progress
from pipeline.evaluation.corpus import CorpusChunk
from pipeline.evaluation.dataset import Pairs
from pipeline.evaluation.ranking import RankedQueries
from pipeline.search.bm25 import BM25Config, Postings, best_rows
from pipeline.search.bm25_index import total
from pipeline.search.exact import TopK
from pipeline.search.term_counts import CorpusStatistics, TermCounts, Terms, hash_terms
from pipeline.text.analyzer import Analyzer

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LexicalQueries:
    """What is searched for: the words of each text, which of them are ranked, and by how many documents.

    `pairs` are (text, row) pairs whose scores are wanted.
    """

    words: list[list[str]]
    ranked: RankedQueries
    k: int
    pairs: Pairs


@dataclass(frozen=True)
class LexicalRanking:
    """Best rows of each query, and the scores [P] of the pairs; NaN for rows that are in none of the chunks."""

    best: TopK
    similarities: Floats


@dataclass(frozen=True)
class CountedCorpus:
    """The words of texts, and how often they occur in each chunk of a corpus, in Ray's object store.

    Counts depend on the language alone: one pass over the corpus serves every method, k1 and b.
    """

    words: list[list[str]]
    chunks: Sequence[CorpusChunk]
    counts: list[Any]
    statistics: CorpusStatistics

    @classmethod
    def count(cls, texts: Sequence[str], chunks: Sequence[CorpusChunk], language: str) -> "CountedCorpus":
        """Count the words of the texts in every chunk; raises UserError where no document holds a word."""
        analyzer = Analyzer(language)
        words = [analyzer.words(text) for text in texts]
        vocabulary = tasks.put(sorted({word for of_text in words for word in of_text}))
        counted = [tasks.submit(_count_chunk, chunk, vocabulary, language, returns=2) for chunk in chunks]
        statistics = total([tasks.get(statistics) for statistics, _ in counted])
        return cls(words, chunks, [counts for _, counts in counted], statistics)

    def rank(
        self, ranked: RankedQueries, k: int, pairs: Pairs, config: BM25Config, on_documents: Callable[[int], None]
    ) -> LexicalRanking:
        """Rank every chunk for the texts that are ranked; the numbers do not depend on how the corpus is cut."""
        ranking = LexicalRanking(TopK.empty(len(ranked.texts), k), np.full(len(pairs[0]), np.nan, np.float32))
        search = tasks.put(LexicalQueries(self.words, ranked, k, pairs))
        shared = (search, tasks.put(self.statistics), config)
        arguments = [(chunk, counts, *shared) for chunk, counts in zip(self.chunks, self.counts, strict=True)]
        for documents, best, pair, scores in tasks.results(_rank_chunk, arguments):
            ranking.best.merge(best)
            ranking.similarities[pair] = scores
            on_documents(documents)
        return ranking

    def rank_with_progress(self, ranked: RankedQueries, k: int, pairs: Pairs, config: BM25Config) -> LexicalRanking:
        """The same, with lines that say how far it is."""
        with Progress("evaluate: bm25", sum(chunk.rows for chunk in self.chunks), "documents") as progress:
            return self.rank(ranked, k, pairs, config, progress.add)


def _count_chunk(chunk: CorpusChunk, vocabulary: list[str], language: str) -> tuple[CorpusStatistics, TermCounts]:
    counts = TermCounts.count(chunk.read().to_pylist(), Analyzer(language), vocabulary)
    return counts.statistics, counts


def _rank_chunk(
    chunk: CorpusChunk, counts: TermCounts, search: LexicalQueries, statistics: CorpusStatistics, config: BM25Config
) -> tuple[int, TopK, Any, Floats]:
    """Number of documents of a chunk, best rows of the queries in it, and which pairs are in it with their scores."""
    postings = Postings.weigh(counts, statistics, config)
    terms = [hash_terms(words) for words in search.words]
    best = TopK.empty(len(search.ranked.texts), search.k)
    excluded_query, excluded_row = search.ranked.excluded
    inside = (excluded_row >= chunk.first_row) & (excluded_row < chunk.first_row + chunk.rows)
    for query, text in enumerate(search.ranked.texts.tolist()):
        scores = postings.scores(terms[text])
        rows = best_rows(scores, search.k, excluded_row[inside & (excluded_query == query)] - chunk.first_row)
        best.scores[query, : len(rows)], best.rows[query, : len(rows)] = scores[rows], rows + chunk.first_row
    pair, similarities = _pair_scores(chunk, postings, terms, search.pairs)
    return chunk.rows, best, pair, similarities


def _pair_scores(chunk: CorpusChunk, postings: Postings, terms: list[Terms], pairs: Pairs) -> tuple[Any, Floats]:
    """Numbers of the pairs whose document is in a chunk, and their scores."""
    text, row = pairs[0], pairs[1] - chunk.first_row
    pair = np.flatnonzero((row >= 0) & (row < chunk.rows))
    scores = np.zeros(len(pair), np.float32)
    for number in np.unique(text[pair]):
        of_text = text[pair] == number
        scores[of_text] = postings.scores(terms[number])[row[pair][of_text]]
    return pair, scores
