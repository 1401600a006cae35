"""k1 and b of BM25 chosen on the judged queries of another split."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.core.progress import Progress
from pipeline.evaluation.bm25_ranking import CountedCorpus
from pipeline.evaluation.corpus import Corpus
from pipeline.evaluation.dataset import EvalDataset, Pairs
from pipeline.evaluation.ranking import RankedQueries
from pipeline.evaluation.tuning import Tuning
from pipeline.metrics.retrieval import depth
from pipeline.search.bm25 import BM25Config

K1, B = (0.6, 0.9, 1.2, 1.6, 2.0), (0.3, 0.5, 0.75, 0.9)
_NO_PAIRS: Pairs = (np.zeros(0, np.int64), np.zeros(0, np.int64))


class EvaluatedBM25(BM25Config):
    """BM25 of an evaluation, whose k1 and b may be chosen."""

    tune: bool = Field(False, description="choose k1 and b on the judged queries of `tuning`; k1 and b where it cannot")


def grid(config: BM25Config) -> list[BM25Config]:
    """The settings that are tried, the given ones first, so that they win ties."""
    tried = [config.model_copy(update={"k1": k1, "b": b}) for k1 in K1 for b in B]
    return [config, *(other for other in tried if other != config)]


def label(settings: Mapping[str, Any]) -> str:
    """How a setting is called in tables."""
    return f"k1 {settings['k1']:g}, b {settings['b']:g}"


def choose(
    corpus: Corpus, counted: CountedCorpus, dataset: EvalDataset, tuning: Tuning, config: EvaluatedBM25, metric: str
) -> tuple[BM25Config, dict[str, Any]]:
    """The best k1 and b on the tuning queries, and how that came about; the given ones where nothing is to be chosen.

    The texts of the tuning queries follow all of the dataset's among those that were counted.
    """
    plain = config.plain()
    if not config.tune or tuning.queries is None:
        return plain, {"reason": tuning.reason} if config.tune else {}
    ranked, choices = RankedQueries.of_tuning(dataset, tuning.queries), grid(plain)
    best = []
    with Progress("evaluate: bm25 settings", len(choices), "settings") as progress:
        for choice in choices:
            best.append(counted.rank(ranked, depth([metric]), _NO_PAIRS, choice, lambda documents: None).best)
            progress.add(1)
    index, facts = tuning.best(corpus, best, [label(choice.model_dump()) for choice in choices], metric)
    return choices[index], facts
