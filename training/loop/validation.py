"""Quality on held-out data while training: retrieval over a sample of the corpus, or similarity of graded pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline import metrics, search
from pipeline.encoder import Encoder, Role
from training.gather import gather, world


@dataclass(frozen=True)
class Validation:
    """Queries, a sample of documents that holds all their relevant ones, and the judgments."""

    queries: Mapping[str, str]
    documents: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Score the encoder: {"ndcg@10": ...}; every rank encodes its part and all get the same figures.

        The figures are higher than over the whole corpus, since the sample leaves out most wrong answers; they are
        for comparing steps of one run.
        """
        queries = _encode_parts(encoder, list(self.queries.values()), "query")
        documents = _encode_parts(encoder, list(self.documents.values()), "document")
        _, rows = search.top_k(search.unit(queries), [search.unit(documents)], min(100, len(documents)))
        doc_ids = list(self.documents)
        rankings = {
            query: [doc_ids[row] for row in found if row >= 0] for query, found in zip(self.queries, rows, strict=True)
        }
        scores = metrics.retrieval(rankings, self.judgments, ["ndcg@10", "mrr@10"])
        return {name: metrics.mean(values) for name, values in scores.items()}


@dataclass(frozen=True)
class Similarity:
    """Labelled pairs and their gold scores."""

    left: Sequence[str]
    right: Sequence[str]
    gold: Sequence[float]

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Spearman's rank correlation of cosines with gold scores, 0 where either is constant; the same on all ranks.

        Both sides are encoded as queries, as `evaluate` does, since neither is a document.
        """
        left, right = (search.unit(_encode_parts(encoder, list(side), "query")) for side in (self.left, self.right))
        cosine = np.einsum("nd,nd->n", left, right).astype(np.float64)
        return {"spearman": metrics.spearman(cosine, np.asarray(self.gold, dtype=np.float64)) or 0.0}


def sample(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    judgments: Mapping[str, Mapping[str, int]],
    *,
    max_queries: int,
    max_documents: int,
    order: Mapping[str, int],
) -> Validation:
    """Choose queries with a relevant document and fill their documents up with others, by a stable hash `order`."""
    judged = {q: j for q, j in judgments.items() if q in queries and any(g > 0 and d in corpus for d, g in j.items())}
    chosen = sorted(judged, key=lambda q: order.get(q, 0))[:max_queries]
    wanted = {d for q in chosen for d in judged[q] if d in corpus}
    others = sorted((d for d in corpus if d not in wanted), key=lambda d: order.get(d, 0))
    documents = sorted([*wanted, *others[: max(0, max_documents - len(wanted))]])
    return Validation(
        {q: queries[q] for q in chosen}, {d: corpus[d] for d in documents}, {q: judged[q] for q in chosen}
    )


def _encode_parts(encoder: Encoder, texts: list[str], role: Role) -> np.ndarray:
    """Encode every W-th text on this rank and put all ranks' vectors back in order: [N, D]."""
    rank, size = world()
    mine = torch.from_numpy(encoder.encode(texts[rank::size], role))
    everyone = gather({"text": mine.to(encoder.device)})
    vectors = np.empty((len(texts), mine.shape[1]), dtype=np.float32)
    start = 0
    for other, count in enumerate(everyone.sizes["text"]):
        vectors[other::size] = everyone.columns["text"][start : start + count].cpu().numpy()
        start += count
    return vectors
