"""What is measured of rankings, by trec_eval's own code, and of triplets; rank correlation.

Retrieval metrics are named as in the field: `ndcg@10`, `mrr@10`, `map`, `recall@100`, `hit@1`; any cut-off works.
`ndcg@10:judged` first drops documents that nobody judged from a ranking (trec_eval -J; condensed lists, Sakai 2007),
`ndcg@10:linear` takes the grade itself for the gain, as trec_eval, BEIR and MTEB do, and `judged@10` is the share of
the first ten that somebody judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import UserError
from pipeline.metrics import pair_scores

Judgments = Mapping[str, Mapping[str, int]]
Rankings = Mapping[str, Sequence[str]]
PerQuery = dict[str, dict[str, float]]
Floats = npt.NDArray[np.float64]

RETRIEVAL = ("ndcg@10", "mrr@10", "map", "recall@100", "hit@1")
_TREC = {"ndcg": "ndcg_cut", "recall": "recall", "hit": "success", "mrr": "recip_rank", "map": "map"}
_OWN = ("judged",)
_VARIANTS = ("judged", "linear")
_HIGHEST_GRADE = 30  # 2^30 - 1 still fits the C code's 32-bit judgments


@dataclass(frozen=True)
class Metric:
    """A retrieval metric, its cut-off (None means the whole ranking) and its variant (judged, linear or none)."""

    kind: str
    cutoff: int | None
    variant: str = ""

    @classmethod
    def parse(cls, name: str) -> "Metric":
        """Read `ndcg@10` or `ndcg@10:judged`; only `map` and `mrr` may go without a cut-off."""
        plain, colon, variant = name.partition(":")
        kind, at, cutoff = plain.partition("@")
        whole = kind in {"map", "mrr"} and not at
        if kind not in {*_TREC, *_OWN} or not (whole or (cutoff.isdigit() and int(cutoff) > 0)):
            known = ", ".join([*_TREC, *_OWN])
            raise UserError(f"unknown metric '{name}'; write one of {known} with a cut-off, as in ndcg@10")
        if colon and (variant not in _VARIANTS or kind in _OWN or (variant == "linear" and kind != "ndcg")):
            raise UserError(f"unknown metric '{name}'; a variant is :judged, or :linear of ndcg, as in ndcg@10:judged")
        return cls(kind, int(cutoff) if cutoff else None, variant)


def depth(names: Sequence[str]) -> int:
    """How many documents a ranking must hold for these metrics: the largest cut-off, at least 100."""
    return max([100, *(Metric.parse(name).cutoff or 0 for name in names)])


def gains(grades: Mapping[str, int]) -> dict[str, int]:
    """Turn graded judgments into gains 2^grade - 1, the exponential gain of nDCG; grades below 1 gain nothing.

    trec_eval's nDCG takes a judgment for the gain itself, so passing gains gives the exponential form. Every other
    metric only asks whether a judgment is at least 1, which gains leave as it was.
    """
    highest = max(grades.values(), default=0)
    if highest > _HIGHEST_GRADE:
        raise UserError(f"relevance {highest} is beyond {_HIGHEST_GRADE}; use graded judgments such as 0 to 3")
    return {doc: 2 ** max(0, int(grade)) - 1 for doc, grade in grades.items()}


def relevant(grades: Mapping[str, int]) -> list[str]:
    """Documents judged relevant, best grade first, then by id."""
    return sorted((doc for doc, grade in grades.items() if grade > 0), key=lambda doc: (-grades[doc], doc))


def retrieval(rankings: Rankings, judgments: Judgments, names: Sequence[str] = RETRIEVAL) -> PerQuery:
    """Score rankings (doc ids, best first) against judgments: {metric: {query: value}}.

    Every judged query with a relevant document counts, with 0 where its ranking is missing or empty; queries without
    one are skipped, since no ranking of theirs can be right or wrong.
    """
    graded = {query: grades for query, grades in judgments.items() if any(g > 0 for g in grades.values())}
    judged = {query: gains(grades) for query, grades in graded.items()}
    plain = {query: {doc: max(0, int(grade)) for doc, grade in grades.items()} for query, grades in graded.items()}
    found = {}
    for name in names:
        metric = Metric.parse(name)
        found[name] = _score(metric, rankings, plain if metric.variant == "linear" else judged)
    return found


def _score(metric: Metric, rankings: Rankings, judged: Judgments) -> dict[str, float]:
    """Run trec_eval once; it cuts reciprocal rank and average precision nowhere, so there the ranking is cut."""
    import pytrec_eval

    if metric.kind == "judged":
        return {query: _judged_share(rankings.get(query, ())[: metric.cutoff], judged[query]) for query in judged}
    measure, key = _TREC[metric.kind], _TREC[metric.kind]
    cut = metric.cutoff
    if metric.kind in {"ndcg", "recall", "hit"}:
        measure, key, cut = f"{measure}.{metric.cutoff}", f"{measure}_{metric.cutoff}", None
    held = {query: rankings.get(query, ()) for query in judged}
    if metric.variant == "judged":
        held = {query: [doc for doc in docs if doc in judged[query]] for query, docs in held.items()}
    runs = {query: _scored(docs[:cut]) for query, docs in held.items() if docs}
    found = pytrec_eval.RelevanceEvaluator(judged, {measure}).evaluate(runs) if runs else {}
    return {query: float(found[query][key]) if query in found else 0.0 for query in judged}


def _judged_share(docs: Sequence[str], grades: Mapping[str, int]) -> float:
    return sum(doc in grades for doc in docs) / len(docs) if docs else 0.0


def _scored(docs: Sequence[str]) -> dict[str, float]:
    """Give falling whole-number scores to a ranking, so that trec_eval's own rule for ties cannot reorder it."""
    return {doc: float(len(docs) - place) for place, doc in enumerate(docs)}


def mean(values: Mapping[str, float]) -> float:
    """Mean over queries; 0 of none."""
    return float(np.mean(list(values.values()))) if values else 0.0


def triplet_margins(positive: Floats, negatives: Sequence[Floats]) -> Floats:
    """Similarities to the positive [N] and to each triplet's negatives (N arrays) into margins [N].

    The margin is taken to the nearest negative: above 0 the anchor is nearer to the positive than to each negative.
    """
    return np.array([p - n.max() for p, n in zip(positive, negatives, strict=True)], dtype=np.float64)


def triplet_accuracy(margins: Floats) -> float:
    """Share of triplets with a margin above 0; a tie is not nearer."""
    return float(np.mean(margins > 0)) if len(margins) else 0.0


def spearman(scores: Floats, gold: Floats) -> float | None:
    """Spearman's rank correlation of model scores [N] with graded gold scores [N]; None where either is constant."""
    if not (pair_scores.varies(scores) and pair_scores.varies(gold)):
        return None
    return float(pair_scores.spearman(scores, gold, pair_scores.ones(len(gold)))[0])
