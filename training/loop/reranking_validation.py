"""Validation of a reranker while training: lists that BM25 finds ranked anew, or similarity of scored pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch

from pipeline.encoder.cross_encoder import Floats
from pipeline.metrics import pair_scores, retrieval
from pipeline.search.bm25_index import BM25Index
from training.loop.validation import RetrievalValidation, SimilarityValidation
from training.losses.gather import gather, world


class PairScorer(Protocol):
    """What validation needs of a reranker."""

    @property
    def device(self) -> torch.device:
        """The device that computes."""

    def score(self, lefts: Sequence[str], rights: Sequence[str]) -> Floats:
        """Scores [N] of pairs of texts."""


@dataclass(frozen=True)
class RerankingValidation:
    """Queries, the documents that each is ranked among, and the judgments."""

    queries: Mapping[str, str]
    lists: Mapping[str, Sequence[str]]
    documents: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, sample: RetrievalValidation, depth: int) -> Self:
        """Lists of the first `depth` documents of BM25 in a sample of the corpus, with all that are relevant."""
        doc_ids = list(sample.documents)
        index = BM25Index.of(sample.documents.values())
        lists: dict[str, list[str]] = {}
        for number, (query, text) in enumerate(sample.queries.items()):
            found = [doc_ids[row] for row in index.search(text, depth, excluded=_barred(sample, number))[1].tolist()]
            relevant = [doc for doc, grade in sample.judgments[query].items() if grade > 0 and doc in sample.documents]
            lists[query] = list(dict.fromkeys([*found, *relevant]))
        return cls(sample.queries, lists, sample.documents, sample.judgments)

    def __call__(self, model: PairScorer) -> dict[str, float]:
        """Figures of the lists in the order of the model, the same on every rank.

        They are higher than those of `evaluate`, since every list has its relevant documents; compare them only
        between steps of one run.
        """
        pairs = [(query, doc) for query, docs in self.lists.items() for doc in docs]
        lefts, rights = [self.queries[query] for query, _ in pairs], [self.documents[doc] for _, doc in pairs]
        scores = dict(zip(pairs, _score_parts(model, lefts, rights).tolist(), strict=True))
        rankings = {query: sorted(docs, key=lambda doc: -scores[query, doc]) for query, docs in self.lists.items()}
        figures = retrieval.retrieval(rankings, self.judgments, ["ndcg@10", "mrr@10"])
        return {name: retrieval.mean(values) for name, values in figures.items()}


@dataclass(frozen=True)
class ScoredPairsValidation:
    """Labelled pairs and their gold scores."""

    sample: SimilarityValidation

    def __call__(self, model: PairScorer) -> dict[str, float]:
        """Spearman's rank correlation of scores with gold scores, 0 where either is constant; the same on all ranks."""
        scores = _score_parts(model, self.sample.left, self.sample.right).astype(np.float64)
        gold = np.asarray(self.sample.gold, dtype=np.float64)
        return {"spearman": pair_scores.spearman_correlation(scores, gold) or 0.0}


def reranking_validation(sample: Any, depth: int) -> RerankingValidation | ScoredPairsValidation | None:
    """The validation of a reranker on the sample that was drawn for a run."""
    if isinstance(sample, SimilarityValidation):
        return ScoredPairsValidation(sample)
    return RerankingValidation.of(sample, depth) if sample else None


def _barred(sample: RetrievalValidation, query: int) -> np.ndarray:
    """Documents that are the query itself."""
    queries, documents = sample.barred or (np.zeros(0, np.int64), np.zeros(0, np.int64))
    barred: np.ndarray = documents[queries == query]
    return barred


def _score_parts(model: PairScorer, lefts: Sequence[str], rights: Sequence[str]) -> Floats:
    """Score every W-th pair on this rank; returns the scores [N] of all ranks in order."""
    rank, size = world()
    local = torch.from_numpy(model.score(lefts[rank::size], rights[rank::size]))[:, None]
    gathered = gather({"pair": local.to(model.device)})
    scores, start = np.empty(len(lefts), np.float32), 0
    for other, count in enumerate(gathered.sizes["pair"]):
        scores[other::size] = gathered.columns["pair"][start : start + count, 0].cpu().numpy()
        start += count
    return scores
