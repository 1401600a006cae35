"""Queries of another split than the evaluated one, on which open settings of systems are chosen."""

from dataclasses import dataclass

from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.dataset import EvalDataset, read_queries
from pipeline.evaluation.self_matches import exclude_self_matches
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

    @classmethod
    def none(cls) -> "Tuning":
        """Nothing to choose on, and nothing to choose."""
        return cls("", EvalDataset())

    @property
    def queries(self) -> EvalDataset | None:
        """The queries to rank too; None where nothing is chosen on them."""
        return self.dataset if self.dataset.query_ids else None
