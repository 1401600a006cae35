"""Length-sorted chunks under a token budget: almost no padding, whatever the order of the texts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def by_tokens(
    lengths: Sequence[int], budget: int, *, least: int = 1024, padding: float = 0.1
) -> list[npt.NDArray[np.int64]]:
    """Cut texts, longest first, into chunks whose padded size (rows x longest length) stays within `budget` tokens.

    Returns index arrays that partition range(len(lengths)). Beyond `least` padded tokens a chunk also ends where one
    more text would bring its padding above the share `padding`: a few more passes cost less than computing padding.
    The longest chunk comes first, so that running out of memory shows at once. A single text longer than the budget
    is a chunk of its own.
    """
    size = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-size, kind="stable")
    falling = size[order]
    below = np.concatenate([[0], np.cumsum(falling)])
    chunks: list[npt.NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        longest = int(falling[start])
        padded = longest * np.arange(1, len(order) - start + 1)
        held = below[start + 1 :] - below[start]
        closed = (padded > budget) | ((padded > least) & (held < (1.0 - padding) * padded))
        rows = max(1, int(closed.argmax()) if closed.any() else len(order) - start)
        chunks.append(order[start : start + rows])
        start += rows
    return chunks


def by_sum(lengths: Sequence[int], budget: int) -> list[npt.NDArray[np.int64]]:
    """Cut texts, longest first, into chunks of at most `budget` tokens in all: for texts that are packed, not padded.

    Returns index arrays that partition range(len(lengths)). A text longer than the budget is a chunk of its own.
    """
    size = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-size, kind="stable")
    below = np.concatenate([[0], np.cumsum(size[order])])
    chunks: list[npt.NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        end = max(start + 1, int(np.searchsorted(below, below[start] + budget, side="right")) - 1)
        chunks.append(order[start:end])
        start = end
    return chunks


def padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Right-pad rows into ids [B, L] and their mask [B, L]."""
    lengths = np.asarray([len(row) for row in rows])
    ids = np.full((len(rows), int(lengths.max())), fill, dtype=np.int64)
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = row
    return ids, (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)


def padding_share(lengths: Sequence[int], chunks: Sequence[npt.NDArray[np.int64]]) -> float:
    """Share of padded positions that hold no token, between 0 and 1."""
    size = np.asarray(lengths, dtype=np.int64)
    padded = sum(int(size[chunk].max()) * len(chunk) for chunk in chunks)
    return 1.0 - float(size.sum()) / padded if padded else 0.0
