"""Share of a ranking's first documents that have a judgment: how much of a figure rests on documents nobody judged."""

from pipeline.metrics.metric import Qrels, Rankings, RetrievalMetric


def judged_share(rankings: Rankings, qrels: Qrels, k: int | None) -> dict[str, float]:
    """Share of the first k documents that have a judgment, relevant or not; 0 of an empty ranking."""
    shares = {}
    for query, grades in qrels.items():
        docs = rankings.get(query, ())[:k]
        shares[query] = sum(doc in grades for doc in docs) / len(docs) if docs else 0.0
    return shares


JUDGED_SHARE = RetrievalMetric("judged", "Judged", judged_share, condensable=False)
