"""Queries of another split than the evaluated one, on which open settings of systems are chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.dataset import EvalDataset, read_queries
from pipeline.evaluation.self_matches import exclude_self_matches
from pipeline.metrics.registry import higher_is_better
from pipeline.metrics.retrieval import mean, retrieval
from pipeline.search.exact import TopK
from pipeline.storage.artifact import Artifact

MIN_QUERIES, MAX_QUERIES = 50, 1000  # fewer say too little; more say no more about one number


@dataclass(frozen=True)
class Tuning:
    """The judged queries of a split; `reason` says why there are none to choose on, and is empty where there are."""

    split: str
    dataset: EvalDataset
    reason: str = ""

    @classmethod
    def read(cls, data: Artifact, corpus: Corpus, split: str, evaluated: str) -> "Tuning":
        """Read a split's queries, the first thousand, unless they are those of the split that is evaluated."""
        if split == evaluated:
            return cls(split, EvalDataset(), f"split {split} is the one that is evaluated")
        dataset = read_queries(data, split, MAX_QUERIES)
        if dataset.query_ids:
            exclude_self_matches(dataset, corpus)
        if (count := len(dataset.query_ids)) < MIN_QUERIES:
            return cls(split, EvalDataset(), f"split {split} has {count} judged queries, {MIN_QUERIES} are needed")
        return cls(split, dataset)

    def best(
        self, corpus: Corpus, rankings: Sequence[TopK], labels: Sequence[str], metric: str
    ) -> tuple[int, dict[str, Any]]:
        """Number of the best ranking of the queries, the first of equal ones, and the facts that the report tells."""
        rows = np.concatenate([ranking.rows.ravel() for ranking in rankings])
        documents = corpus.take(rows[rows >= 0], ["doc_id"])  # of all rankings, in one pass over the corpus
        by_id = [name_rows(self.dataset.query_ids, ranking, documents) for ranking in rankings]
        scores = [round(mean(retrieval(ranking, self.dataset.qrels, [metric])[metric]), 6) for ranking in by_id]
        index = (max if higher_is_better(metric) else min)(range(len(scores)), key=scores.__getitem__)
        facts = {"split": self.split, "queries": len(self.dataset.query_ids), "metric": metric}
        return index, {**facts, "scores": dict(zip(labels, scores, strict=True)), "chosen": labels[index]}

    @classmethod
    def none(cls) -> "Tuning":
        """Nothing to choose on, and nothing to choose."""
        return cls("", EvalDataset())

    @property
    def queries(self) -> EvalDataset | None:
        """The queries to rank too; None where nothing is chosen on them."""
        return self.dataset if self.dataset.query_ids else None


def name_rows(queries: Sequence[str], best: TopK, documents: Mapping[int, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Ids of the documents of a ranking, by query; `documents` hold them by corpus row."""
    return {
        query: [documents[row]["doc_id"] for row in rows[rows >= 0].tolist()]
        for query, rows in zip(queries, best.rows, strict=True)
    }
