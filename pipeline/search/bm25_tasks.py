"""A BM25 index of a table, built in tasks: one a shard counts its words, another one weighs them.

Between the two the driver adds up the statistics of all shards. The counts wait in Ray's object store, which writes to
disk what memory does not hold, so that no process has more than one shard and the distinct words of the corpus.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.core import tasks
from pipeline.core.progress import Progress
from pipeline.search.bm25 import BM25Config, Postings
from pipeline.search.bm25_index import SHARD_ROWS, shard_folder, total, write_header
from pipeline.search.term_counts import CorpusStatistics, TermCounts
from pipeline.storage import shards
from pipeline.storage.files import new_folder
from pipeline.storage.shards import Shard
from pipeline.text.analyzer import Analyzer

_PARTS = 16  # statistics of shards that are added up at a time


def build(
    files: Sequence[str], path: str, config: BM25Config, *, column: str = "text", rows: int = SHARD_ROWS, label: str
) -> None:
    """Index a column of texts of Parquet files, in their order, into a folder on any store that every node sees.

    `label` is what its progress is called. Raises UserError where no text holds a word that counts.
    """
    plan = shards.plan(files, rows, "bm25")
    counted = [tasks.submit(_count, shard, column, config.language, returns=2) for shard in plan]
    statistics = tasks.put(_statistics([of_shard for of_shard, _ in counted], plan, f"{label}: count words"))
    arguments = [(counts, statistics, config, shard_folder(path, number)) for number, (_, counts) in enumerate(counted)]
    with Progress(f"{label}: write postings", sum(shard.rows for shard in plan), "documents") as progress:
        for documents in tasks.results(_weigh, arguments):
            progress.add(documents)
    write_header(path, config, [shard.rows for shard in plan])


def _statistics(parts: Sequence[Any], plan: Sequence[Shard], label: str) -> CorpusStatistics:
    """Statistics of the corpus from those of its shards, in their order."""
    added: list[CorpusStatistics] = []
    with Progress(label, sum(shard.rows for shard in plan), "documents") as progress:
        for part in map(tasks.get, parts):
            added.append(part)
            progress.add(part.documents)
            if len(added) == _PARTS:
                added = [CorpusStatistics.add(added)]
    return total(added)


def _count(shard: Shard, column: str, language: str) -> tuple[CorpusStatistics, TermCounts]:
    texts = shards.read(shard, [column]).column(column)
    counts = TermCounts.count((text or "" for text in texts.to_pylist()), Analyzer(language))
    return counts.statistics, counts


def _weigh(counts: TermCounts, statistics: CorpusStatistics, config: BM25Config, path: str) -> int:
    """Write the postings of a shard; return its documents."""
    with new_folder(path) as folder:
        Postings.weigh(counts, statistics, config).save(folder)
    return len(counts.lengths)
