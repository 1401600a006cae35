"""Rankings of an evaluation ranked anew by a cross-encoder, on a pool of actors.

An actor reads the texts of the documents that its queries have, in one pass over the corpus, so that nothing but a
part of the queries' documents is in memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.core import tasks
from pipeline.core.actor_pool import Pool, Worker, limit_threads, stream
from pipeline.core.progress import Progress
from pipeline.encoder.cross_encoder import CrossEncoderConfig, Reranker
from pipeline.evaluation.corpus import Corpus
from pipeline.search.exact import TopK
from pipeline.search.rerank import Rerank, reorder, rescore

_QUERIES = 64  # that an actor reads the documents of in one pass


class RerankQueries(Worker):
    """Scores the documents of some queries."""

    def __init__(self, config: CrossEncoderConfig, corpus: Corpus, shared: Any, threads: int) -> None:
        limit_threads(threads)
        self.reranker, self.corpus = Reranker(config), corpus
        self.queries, self.rows = tasks.get(shared)

    def work(self, item: list[int]) -> list[list[float]]:
        """Scores of the documents of the queries from the first number to before the second."""
        rows = [[row for row in ranked if row >= 0] for ranked in self.rows[slice(*item)].tolist()]
        texts = self.corpus.take((row for ranked in rows for row in ranked), ["text"])
        by_row = {row: values["text"] or "" for row, values in texts.items()}
        return rescore(self.reranker, self.queries[slice(*item)], rows, by_row)


def rerank(system: Rerank, best: TopK, queries: Sequence[str], corpus: Corpus, actors: int | None, name: str) -> TopK:
    """Rank the first documents of each query [Q, k] anew; the numbers do not depend on the number of actors."""
    rows = best.rows[:, : system.top]
    items = [[first, min(first + _QUERIES, len(rows))] for first in range(0, len(rows), _QUERIES)]
    if not items:
        return best
    pool = Pool.plan(actors, len(items))
    settings = {"config": system.cross_encoder, "corpus": corpus, "threads": pool.threads}
    settings["shared"] = tasks.put((list(queries), rows))
    scores = np.full(rows.shape, -np.inf, np.float32)
    with Progress(f"evaluate: {name}", len(rows), "queries") as progress:
        for (first, last), of_item in zip(items, stream(items, RerankQueries, settings, pool), strict=True):
            for query, of_query in enumerate(of_item, first):
                scores[query, : len(of_query)] = of_query
            progress.add(last - first)
    return reorder(best, scores)
