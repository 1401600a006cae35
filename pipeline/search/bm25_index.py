"""A BM25 index: the shards of a corpus under the statistics of all of it, in memory or mapped from a folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.core.errors import UserError
from pipeline.search.bm25 import BM25Config, Postings, best_rows
from pipeline.search.exact import Floats, Rows, TopK
from pipeline.search.term_counts import CorpusStatistics, TermCounts, batches, hash_terms
from pipeline.storage.files import download_folder, join, read_json, write_json
from pipeline.text.analyzer import Analyzer

SHARD_ROWS = 65_536  # documents of a shard that are in memory while an index is written
_HEADER = "bm25.json"


class BM25Index:
    """BM25 over documents in corpus order. Scores do not depend on the number of shards."""

    HEADER = _HEADER  # file that is written last

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
            Postings.weigh(TermCounts.load(path), statistics, config).save(Path(shard_folder(folder, number)))
            path.unlink()
        write_header(folder, config, documents)

    @classmethod
    def load(cls, folder: str) -> "BM25Index":
        """Open an index that `write` or `bm25_tasks.build` left; it stays on disk and is mapped.

        A remote one is copied to this machine first.
        """
        local = download_folder(folder) if "://" in folder else folder
        header = read_json(join(local, _HEADER))
        documents = enumerate(header["documents"])
        shards = [Postings.load(Path(shard_folder(local, number)), count) for number, count in documents]
        return cls(shards, BM25Config.model_validate(header["config"]))

    @property
    def size(self) -> int:
        """Number of documents."""
        return sum(shard.documents for shard in self.shards)

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

    def top_k(self, queries: Sequence[str], k: int) -> TopK:
        """The best k documents of each query; places without one have score -inf and row -1."""
        best = TopK.empty(len(queries), k)
        for number, query in enumerate(queries):
            scores, rows = self.search(query, k)
            best.scores[number, : len(rows)], best.rows[number, : len(rows)] = scores, rows
        return best


def shard_folder(path: str, number: int) -> str:
    """Folder of a shard's postings in an index."""
    return join(path, f"shard-{number:05d}")


def write_header(path: str, config: BM25Config, documents: Sequence[int]) -> None:
    """Write the file that makes an index of folders of postings: settings, and the documents of each shard."""
    write_json(join(path, _HEADER), {"config": config.model_dump(), "documents": list(documents)})


def total(parts: Sequence[CorpusStatistics]) -> CorpusStatistics:
    """Statistics of a corpus from those of its shards; raises UserError where no document holds a word."""
    statistics = CorpusStatistics.add(parts) if parts else None
    if statistics is None or not statistics.words:
        raise UserError("bm25: no document holds a word that counts; leave BM25 out or look at the corpus")
    return statistics
