"""A BM25 index: the shards of a corpus under the statistics of all of it, in memory or mapped from a folder."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.core.errors import UserError
from pipeline.search.bm25 import BM25Config, Postings, best_rows
from pipeline.search.exact import Floats, Rows
from pipeline.search.term_counts import CorpusStatistics, TermCounts, batches, hash_terms
from pipeline.text.analyzer import Analyzer

SHARD_ROWS = 65_536  # documents of a shard that are in memory while an index is written
_HEADER = "bm25.json"


class BM25Index:
    """BM25 over documents in corpus order. Scores do not depend on the number of shards."""

    def __init__(self, shards: Sequence[Postings], config: BM25Config) -> None:
        self.shards, self.config = shards, config
        self.analyzer = Analyzer(config.language)

    @classmethod
    def of(cls, texts: Iterable[str], config: BM25Config | None = None, rows: int = SHARD_ROWS) -> "BM25Index":
        """Index texts in memory, about 16 bytes a distinct word of a document; `rows` of them are a shard."""
        config = config or BM25Config()
        analyzer = Analyzer(config.language)
        counts = [TermCounts.count(part, analyzer) for part in batches(texts, rows)] or [TermCounts.count([], analyzer)]
        statistics = CorpusStatistics.add([part.statistics for part in counts])
        return cls([Postings.weigh(part, statistics, config) for part in counts], config)

    @staticmethod
    def write(texts: Iterable[str], folder: str, config: BM25Config, rows: int = SHARD_ROWS) -> None:
        """Index texts into a local folder, of which one shard and the distinct words are in memory at a time.

        Raises UserError where no text holds a word.
        """
        root, analyzer, documents = Path(folder), Analyzer(config.language), []
        known: CorpusStatistics | None = None
        for number, part in enumerate(batches(texts, rows)):
            counts = TermCounts.count(part, analyzer)
            counts.save(root / f"counts-{number:05d}.npz")
            documents.append(len(counts.lengths))
            known = CorpusStatistics.add([known, counts.statistics] if known else [counts.statistics])
        statistics = total([known] if known else [])
        for number in range(len(documents)):
            path = root / f"counts-{number:05d}.npz"
            Postings.weigh(TermCounts.load(path), statistics, config).save(root / f"shard-{number:05d}")
            path.unlink()
        (root / _HEADER).write_text(json.dumps({"config": config.model_dump(), "documents": documents}))

    @classmethod
    def load(cls, folder: str) -> "BM25Index":
        """Open an index that `write` left; it stays on disk and is mapped."""
        root = Path(folder)
        header = json.loads((root / _HEADER).read_text())
        documents = enumerate(header["documents"])
        shards = [Postings.load(root / f"shard-{number:05d}", count) for number, count in documents]
        return cls(shards, BM25Config.model_validate(header["config"]))

    def scores(self, query: str) -> Floats:
        """Score a query against every document, [N] in corpus order; 0 where no word is shared."""
        terms = hash_terms(self.analyzer.words(query))
        return np.concatenate([shard.scores(terms) for shard in self.shards])

    def search(self, query: str, k: int, *, excluded: Rows | None = None) -> tuple[Floats, Rows]:
        """Return scores [n] and rows [n], n <= k, of the best documents that share a word; of equal ones the lower row.

        `excluded` are rows that are never in the result.
        """
        scores = self.scores(query)
        rows = best_rows(scores, k, () if excluded is None else excluded)
        return scores[rows], rows


def total(parts: Sequence[CorpusStatistics]) -> CorpusStatistics:
    """Statistics of a corpus from those of its shards; raises UserError where no document holds a word."""
    statistics = CorpusStatistics.add(parts) if parts else None
    if statistics is None or not statistics.words:
        raise UserError("bm25: no document holds a word that counts; leave BM25 out or look at the corpus")
    return statistics
