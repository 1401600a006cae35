"""Texts sorted by length and cut into batches under a token budget: almost no padding, whatever their order."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def padded_batches(lengths: Sequence[int], budget: int, *, min_tokens: int = 1024, padding: float = 0.1) -> list[Ints]:
    """Cut texts, longest first, into batches whose padded size (rows x longest length) stays within `budget` tokens.

    Returns index arrays that partition range(len(lengths)). Beyond `min_tokens` padded tokens a batch also ends where
    one more text would bring its padding above the share `padding`: a few more passes cost less than computing
    padding. The longest batch comes first, so that running out of memory shows at once. A single text longer than the
    budget is a batch of its own.
    """
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-sizes, kind="stable")
    falling = sizes[order]
    offsets = np.concatenate([[0], np.cumsum(falling)])
    batches: list[Ints] = []
    start = 0
    while start < len(order):
        padded = int(falling[start]) * np.arange(1, len(order) - start + 1)
        tokens = offsets[start + 1 :] - offsets[start]
        closed = (padded > budget) | ((padded > min_tokens) & (tokens < (1.0 - padding) * padded))
        rows = max(1, int(closed.argmax()) if closed.any() else len(order) - start)
        batches.append(order[start : start + rows])
        start += rows
    return batches


def packed_batches(lengths: Sequence[int], budget: int) -> list[Ints]:
    """Cut texts, longest first, into batches of at most `budget` tokens in all, for texts that are packed, not padded.

    Returns index arrays that partition range(len(lengths)). A text longer than the budget is a batch of its own.
    """
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-sizes, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(sizes[order])])
    batches: list[Ints] = []
    start = 0
    while start < len(order):
        end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + budget, side="right")) - 1)
        batches.append(order[start:end])
        start = end
    return batches


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Ints, Ints]:
    """Right-pad rows of token ids into ids [B, L] and their mask [B, L]."""
    lengths = np.asarray([len(row) for row in rows])
    ids = np.full((len(rows), int(lengths.max())), pad_id, dtype=np.int64)
    for padded, row in zip(ids, rows, strict=True):
        padded[: len(row)] = row
    return ids, (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)


def padding_share(lengths: Sequence[int], batches: Sequence[Ints]) -> float:
    """Share of the positions of padded batches that hold no token, between 0 and 1."""
    sizes = np.asarray(lengths, dtype=np.int64)
    padded = sum(int(sizes[batch].max()) * len(batch) for batch in batches)
    return 1.0 - float(sizes.sum()) / padded if padded else 0.0
