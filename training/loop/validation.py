"""Validation on held-out data while training: retrieval over a sample of the corpus, or similarity of scored pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from pipeline.core.config import Config
from pipeline.encoder.config import Role
from pipeline.metrics import pair_scores, retrieval
from pipeline.search import exact
from pipeline.storage.artifact import Artifact
from pipeline.storage.vectors import comparable
from pipeline.text.same_document import SelfMatches
from training.loop.placement import TextEncoder
from training.losses.gather import gather, world


@dataclass(frozen=True)
class RetrievalValidation:
    """Queries, a sample of documents with all their relevant ones, and the judgments."""

    queries: Mapping[str, str]
    documents: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]
    barred: tuple[np.ndarray, np.ndarray] | None = None  # (query, document) indices: the document is the query itself
    note: str = ""  # what the user is told of the sample

    def __call__(self, encoder: TextEncoder) -> dict[str, float]:
        """Score the encoder: {"ndcg@10": ...}; every rank encodes its part and all get the same figures.

        The figures are higher than over the full corpus, since the sample leaves out most wrong answers; compare them
        only between steps of one run.
        """
        queries = _encode_parts(encoder, list(self.queries.values()), "query")
        documents = _encode_parts(encoder, list(self.documents.values()), "document")
        queries, documents = (comparable(vectors, encoder.similarity) for vectors in (queries, documents))
        _, rows = exact.top_k(queries, [documents], min(100, len(documents)), excluded=self.barred)
        doc_ids = list(self.documents)
        rankings = {
            query: [doc_ids[row] for row in ranked if row >= 0]
            for query, ranked in zip(self.queries, rows, strict=True)
        }
        scores = retrieval.retrieval(rankings, self.judgments, ["ndcg@10", "mrr@10"])
        return {name: retrieval.mean(values) for name, values in scores.items()}


@dataclass(frozen=True)
class SimilarityValidation:
    """Labelled pairs and their gold scores."""

    left: Sequence[str]
    right: Sequence[str]
    gold: Sequence[float]

    def __call__(self, encoder: TextEncoder) -> dict[str, float]:
        """Spearman's rank correlation of cosines with gold scores, 0 where either is constant; the same on all ranks.

        Both sides are encoded as queries, as `evaluate` does, since neither is a document.
        """
        encoded = (_encode_parts(encoder, list(side), "query") for side in (self.left, self.right))
        left, right = (comparable(vectors, encoder.similarity) for vectors in encoded)
        cosine = np.einsum("nd,nd->n", left, right).astype(np.float64)
        return {"spearman": pair_scores.spearman_correlation(cosine, np.asarray(self.gold, dtype=np.float64)) or 0.0}


def sample_corpus(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    judgments: Mapping[str, Mapping[str, int]],
    *,
    max_queries: int,
    max_documents: int,
    order: Mapping[str, int],
) -> RetrievalValidation:
    """Sample queries, their judged documents, and other documents, by a stable hash `order`.

    Where the queries have more judged documents than `max_documents`, each keeps as many as the others, relevant ones
    first, and its other judgments do not count; one whose turn does not come is left out. A document that is the query
    itself is neither ranked nor counted, as in `evaluate`.
    """
    itself = _self_matches(queries, corpus, judgments)
    judged_queries = answerable_queries(queries, corpus, judgments, itself)
    chosen = sorted(judged_queries, key=lambda q: order.get(q, 0))[:max_queries]
    judged, note = _within(max_documents, {q: judged_queries[q] for q in chosen}, corpus, order)
    relevant = {d for grades in judged.values() for d in grades if d in corpus}
    others = sorted((d for d in corpus if d not in relevant), key=lambda d: order.get(d, 0))
    documents = sorted([*relevant, *others[: max(0, max_documents - len(relevant))]])
    index_of = {doc: index for index, doc in enumerate(documents)}
    barred = [(i, index_of[doc]) for i, q in enumerate(judged) for doc in sorted(itself.get(q, ())) if doc in index_of]
    return RetrievalValidation(
        {q: queries[q] for q in judged},
        {d: corpus[d] for d in documents},
        judged,
        (np.array([i for i, _ in barred], np.int64), np.array([j for _, j in barred], np.int64)),
        note,
    )


def answerable_queries(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    judgments: Mapping[str, Mapping[str, int]],
    itself: Mapping[str, set[str]] | None = None,
) -> dict[str, dict[str, int]]:
    """Judgments of the queries that have a relevant document in the corpus other than `itself`, by query."""
    itself = _self_matches(queries, corpus, judgments) if itself is None else itself
    others_only = {q: {d: g for d, g in j.items() if d not in itself.get(q, ())} for q, j in judgments.items()}
    return {q: j for q, j in others_only.items() if q in queries and any(g > 0 and d in corpus for d, g in j.items())}


def _within(
    max_documents: int, judged: dict[str, dict[str, int]], corpus: Mapping[str, str], order: Mapping[str, int]
) -> tuple[dict[str, dict[str, int]], str]:
    """Judgments of queries whose documents in the corpus are at most `max_documents`, and a line where that is fewer.

    Judged documents that are not in the corpus stay judged, since every model misses them.
    """
    count = len({d for grades in judged.values() for d in grades if d in corpus})
    if count <= max_documents:
        return judged, ""
    sampled = _sample_judged(judged, corpus, max_documents, order)
    fewer = {q: {d: g for d, g in j.items() if d in sampled or d not in corpus} for q, j in judged.items()}
    fewer = {q: j for q, j in fewer.items() if any(g > 0 and d in sampled for d, g in j.items())}
    return fewer, (
        f"validation: {len(sampled):,} of the {count:,} judged documents of {len(judged):,} queries, of which "
        f"{len(fewer):,} keep a relevant one (validation.max_documents)"
    )


def _sample_judged(
    judged: Mapping[str, Mapping[str, int]], corpus: Mapping[str, str], count: int, order: Mapping[str, int]
) -> set[str]:
    """At most `count` judged documents: of each query in turn its next one, relevant ones first."""
    waiting = [
        iter(sorted((d for d in grades if d in corpus), key=lambda d: (grades[d] <= 0, order.get(d, 0), d)))
        for grades in judged.values()
    ]
    sampled: set[str] = set()
    while waiting and len(sampled) < count:
        for documents in list(waiting):
            document = next(documents, None)
            if document is None:
                waiting.remove(documents)
            elif len(sampled) < count:
                sampled.add(document)
    return sampled


def _self_matches(
    queries: Mapping[str, str], corpus: Mapping[str, str], judgments: Mapping[str, Mapping[str, int]]
) -> dict[str, set[str]]:
    """Documents that are the query itself, by query."""
    doc_ids, itself = list(corpus), dict[str, set[str]]()
    matches = SelfMatches(list(queries), list(queries.values()), judgments)
    for query, row in matches.find(doc_ids, list(corpus.values())):
        itself.setdefault(query, set()).add(doc_ids[row])
    return itself


def _encode_parts(encoder: TextEncoder, texts: list[str], role: Role) -> np.ndarray:
    """Encode every W-th text on this rank; returns the vectors [N, D] of all ranks in order."""
    rank, size = world()
    local = torch.from_numpy(encoder.encode(texts[rank::size], role))
    gathered = gather({"text": local.to(encoder.device)})
    vectors = np.empty((len(texts), local.shape[1]), dtype=np.float32)
    start = 0
    for other, count in enumerate(gathered.sizes["text"]):
        vectors[other::size] = gathered.columns["text"][start : start + count].cpu().numpy()
        start += count
    return vectors


class ValidationConfig(Config):
    """Which held-out queries are validated while training, over how large a sample of the corpus."""

    split: Literal["dev", "test"] = "dev"
    max_queries: int = Field(200, ge=1)
    max_documents: int = Field(1000, ge=10, description="a bound: judged documents too are sampled, by query")
    max_pairs: int = Field(2000, ge=2, description="labelled pairs, where spearman is measured")
    metric: Literal["auto", "ndcg@10", "mrr@10", "spearman"] = Field(
        "auto",
        description="chooses the best checkpoint; auto: ndcg@10, or spearman where there are only labelled pairs",
    )
    asynchronous: bool = Field(False, description="validate checkpoints in a task of their own while training goes on")
    timeout_s: float = Field(1800.0, gt=0, description="time limit of an asynchronous validation")

    def metric_name(self, data: Artifact) -> str:
        """Name of the metric for a data set."""
        if self.metric != "auto":
            return self.metric
        return "spearman" if data.has("labelled") and not data.has("qrels") else "ndcg@10"
