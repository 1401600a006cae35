"""A random sample of the corpus, whose vectors come to the driver for int8 ranges, clusters and the map."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.corpus import Corpus
from pipeline.metrics.clustering import Ints

DOCUMENTS = 2000
MIN_CATEGORY = 5  # documents of a category, below which it is not clustered


@dataclass(frozen=True)
class Sample:
    """Documents drawn at random, in corpus order; a category is empty where there is none."""

    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def groups(self) -> tuple[npt.NDArray[np.int64], Ints]:
        """Indices [n] of documents of common categories, and the category's number [n]; empty below two categories."""
        names, counts = np.unique([name for name in self.categories if name], return_counts=True)
        number_of = {str(name): number for number, name in enumerate(names[counts >= MIN_CATEGORY])}
        indices = [i for i, name in enumerate(self.categories) if name in number_of] if len(number_of) > 1 else []
        labels = [number_of[self.categories[i]] for i in indices]
        return np.array(indices, np.int64), np.array(labels, np.int64)


def draw(corpus: Corpus, seed: int, size: int = DOCUMENTS) -> Sample:
    """Draw up to `size` documents at random; the same ones however the corpus is cut into files."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(corpus), min(size, len(corpus)), replace=False)).tolist()
    documents = corpus.take(rows, ["text", "category", "source"])
    columns = ([documents[row][name] or "" for row in rows] for name in ("text", "category", "source"))
    return Sample(rows, *columns)
