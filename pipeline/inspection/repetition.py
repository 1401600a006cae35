"""Repeated texts, and texts in more than one split: exact for few texts, estimated from a fair sample for many."""

from collections import Counter
from itertools import combinations

import numpy as np
import numpy.typing as npt
import xxhash

MAX_TEXTS = 2_000_000  # texts whose hashes are in memory, 9 bytes each


class Repetition:
    """Hashes of texts and their splits; beyond `max_texts` only hashes divisible by `step` stay.

    All copies of a text have one hash, so that a sample by hash keeps all copies or none: shares stay right.
    """

    def __init__(self, max_texts: int = MAX_TEXTS) -> None:
        self.max_texts, self.step, self.seen = max_texts, 1, 0
        self.hashes: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.codes: npt.NDArray[np.int8] = np.zeros(0, np.int8)
        self.splits: list[str] = []

    def add(self, texts: list[str | None], splits: list[str | None] | None) -> None:
        """Add the texts of a batch; texts that differ in case or outer blanks are equal, nulls are left out."""
        rows = [i for i, text in enumerate(texts) if text is not None]
        digest = xxhash.xxh3_64_intdigest
        hashes = np.array([digest((texts[i] or "").strip().casefold().encode()) for i in rows], np.uint64)
        codes = np.array([self._code(splits[i] if splits else None) for i in rows], np.int8)
        self.seen += len(rows)
        in_sample = hashes % np.uint64(self.step) == 0
        self.hashes = np.concatenate([self.hashes, hashes[in_sample]])
        self.codes = np.concatenate([self.codes, codes[in_sample]])
        while len(self.hashes) > self.max_texts:
            self.step *= 2
            in_sample = self.hashes % np.uint64(self.step) == 0
            self.hashes, self.codes = self.hashes[in_sample], self.codes[in_sample]

    def _code(self, split: str | None) -> int:
        name = split or ""
        if name not in self.splits:
            self.splits.append(name)
        return self.splits.index(name)

    def share(self) -> float:
        """Share of the texts that repeat another one of the column."""
        return 1 - len(np.unique(self.hashes)) / len(self.hashes) if len(self.hashes) else 0.0

    def overlap(self) -> dict[tuple[str, str], int]:
        """Distinct texts in both of two splits; an estimate where `step` is above 1."""
        hashes_of = {name: np.unique(self.hashes[self.codes == code]) for code, name in enumerate(self.splits) if name}
        shared = Counter[tuple[str, str]]()
        for first, second in combinations(sorted(hashes_of), 2):
            shared[first, second] = len(np.intersect1d(hashes_of[first], hashes_of[second])) * self.step
        return dict(shared)
