"""Repeated texts, and texts that stand in more than one split: exact when few, by a fair sample when many."""

from collections import Counter
from itertools import combinations

import numpy as np
import numpy.typing as npt
import xxhash

MOST = 2_000_000  # texts that are kept in mind, 9 bytes each


class Repeats:
    """Hashes of texts and their splits; beyond `MOST` only those divisible by `every` are kept.

    All copies of a text have one hash, so that a sample by hash keeps all copies or none: shares stay right.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.every, self.seen = most, 1, 0
        self.hashes: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.codes: npt.NDArray[np.int8] = np.zeros(0, np.int8)
        self.splits: list[str] = []

    def add(self, texts: list[str | None], splits: list[str | None] | None) -> None:
        """Take the texts of a batch; case and outer blanks make no other text, nulls are none."""
        rows = [i for i, text in enumerate(texts) if text is not None]
        digest = xxhash.xxh3_64_intdigest
        hashes = np.array([digest((texts[i] or "").strip().casefold().encode()) for i in rows], np.uint64)
        codes = np.array([self._code(splits[i] if splits else None) for i in rows], np.int8)
        self.seen += len(rows)
        kept = hashes % np.uint64(self.every) == 0
        self.hashes = np.concatenate([self.hashes, hashes[kept]])
        self.codes = np.concatenate([self.codes, codes[kept]])
        while len(self.hashes) > self.most:
            self.every *= 2
            kept = self.hashes % np.uint64(self.every) == 0
            self.hashes, self.codes = self.hashes[kept], self.codes[kept]

    def _code(self, split: str | None) -> int:
        name = split or ""
        if name not in self.splits:
            self.splits.append(name)
        return self.splits.index(name)

    def share(self) -> float:
        """Share of the texts that repeat another one of the column."""
        return 1 - len(np.unique(self.hashes)) / len(self.hashes) if len(self.hashes) else 0.0

    def overlap(self) -> dict[tuple[str, str], int]:
        """Distinct texts in both of two splits; an estimate where `every` is above 1."""
        held = {name: np.unique(self.hashes[self.codes == code]) for code, name in enumerate(self.splits) if name}
        found = Counter[tuple[str, str]]()
        for first, second in combinations(sorted(held), 2):
            found[first, second] = len(np.intersect1d(held[first], held[second])) * self.every
        return dict(found)
