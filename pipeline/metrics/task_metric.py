"""A score of the tasks beyond retrieval (triplets, scored pairs, duplicates, clusters), as the report names it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TaskMetric:
    """A score that is measured wherever the data has what it needs; a recipe does not name it.

    `function` makes the score: of triplets it maps margins [N] to values [N]; of pairs it maps (scores [N], gold [N],
    weights [S, N]) to [S]; of duplicates likewise, with the number of right pairs [S]; of clusters (runs [R, N],
    labels [N], weights [S, N]) to [S]. A weight says how often a unit counts in a bootstrap sample.
    """

    name: str
    label: str
    function: Callable[..., npt.NDArray[np.float64]]
    yes_or_no: bool = False  # needs gold scores with two values
    higher_is_better: bool = True
    headline: int = 0  # 1 leads the report where there are no queries, then 2, and so on; 0 never leads
    threshold: str = ""  # key of the cosine at which the score is reached
    explanation: str = ""  # sentence of the report's section on methods
