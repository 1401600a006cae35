"""64-bit keys of ids and texts, and joins over them: what is excluded is found without a table of strings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.mining.cells import Keys, Rows
from pipeline.text import hash64, normalise


@dataclass(frozen=True)
class Owned:
    """Keys that count for an anchor: owners [M], keys [M]."""

    owners: Rows
    keys: Keys

    def __add__(self, other: "Owned") -> "Owned":
        return Owned(np.concatenate([self.owners, other.owners]), np.concatenate([self.keys, other.keys]))


NONE = Owned(np.empty(0, np.int64), np.empty(0, np.uint64))


def text_keys(texts: Sequence[str]) -> Keys:
    """Keys [N] of normalised texts, the same for texts that differ in case or white space only; never 0."""
    return np.fromiter((hash64(normalise(text).casefold()) | 1 for text in texts), np.uint64, len(texts))


def id_keys(ids: Sequence[str | None]) -> Keys:
    """Keys [N] of ids; 0 for none."""
    return np.fromiter((0 if name is None else hash64(name) | 1 for name in ids), np.uint64, len(ids))


def matches(owners: Rows, keys: Keys, documents: Keys) -> tuple[Rows, Rows]:
    """Join owned keys (owners [M], keys [M]) with the keys of documents [N] into (owner, document) rows.

    Key 0 stands for none and matches nothing.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.searchsorted(ordered, documents, "left")
    count = np.searchsorted(ordered, documents, "right") - first
    count[documents == 0] = 0
    hits = np.flatnonzero(count)
    spread = np.repeat(hits, count[hits])
    step = np.arange(len(spread)) - np.repeat(np.cumsum(count[hits]) - count[hits], count[hits])
    return owners[order[first[spread] + step]], spread
