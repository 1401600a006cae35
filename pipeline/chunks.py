"""Length-sorted chunks under a token budget: almost no padding, whatever the order of the texts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def by_tokens(lengths: Sequence[int], budget: int, multiple: int = 1) -> list[npt.NDArray[np.int64]]:
    """Cut texts, longest first, into chunks whose padded size (rows x longest length) stays within `budget` tokens.

    Returns index arrays that partition range(len(lengths)). The longest chunk comes first, so that running out of
    memory shows at once. `multiple` rounds the padded length up, for hardware that likes it. A single text longer
    than the budget is a chunk of its own.
    """
    size = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-size, kind="stable")
    chunks: list[npt.NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        longest = max(1, -(-int(size[order[start]]) // multiple) * multiple)
        rows = max(1, budget // longest)
        chunks.append(order[start : start + rows])
        start += rows
    return chunks


def padding_share(lengths: Sequence[int], chunks: Sequence[npt.NDArray[np.int64]]) -> float:
    """Share of padded positions that hold no token, between 0 and 1."""
    size = np.asarray(lengths, dtype=np.int64)
    padded = sum(int(size[chunk].max()) * len(chunk) for chunk in chunks)
    return 1.0 - float(size.sum()) / padded if padded else 0.0
