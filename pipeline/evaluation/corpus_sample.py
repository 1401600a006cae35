"""A sample of the corpus whose vectors come to the driver: to calibrate, to cluster and to draw."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.corpus import Corpus
from pipeline.metrics.clustering import Ints

DOCUMENTS = 2000
FEWEST = 5  # documents of a category, below which it says nothing


@dataclass(frozen=True)
class Sample:
    """Documents drawn at random, in corpus order; a category is empty where there is none."""

    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def groups(self) -> tuple[npt.NDArray[np.int64], Ints]:
        """Places [n] of documents of common categories, and the category's number [n]; empty below two categories."""
        names, counts = np.unique([name for name in self.categories if name], return_counts=True)
        kept = {str(name): number for number, name in enumerate(names[counts >= FEWEST])}
        places = [place for place, name in enumerate(self.categories) if name in kept] if len(kept) > 1 else []
        return np.array(places, np.int64), np.array([kept[self.categories[place]] for place in places], np.int64)


def draw(corpus: Corpus, seed: int, most: int = DOCUMENTS) -> Sample:
    """Draw up to `most` documents; the same ones for any cut of the corpus into files."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(corpus), min(most, len(corpus)), replace=False)).tolist()
    held = corpus.take(rows, ["text", "category", "source"])
    columns = ([held[row][name] or "" for row in rows] for name in ("text", "category", "source"))
    return Sample(rows, *columns)
