"""Vectors in fewer bytes: the first dimensions alone, 8-bit integers over calibrated ranges, or one bit a dimension.

Everything here is a pure function of arrays; what a store would give back is what is measured.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
LEVELS = 255


@dataclass(frozen=True)
class Ranges:
    """The lowest and highest number of each dimension [D], seen in a sample; int8 cuts them into 255 steps."""

    low: Floats
    high: Floats

    @classmethod
    def of(cls, vectors: Floats) -> "Ranges":
        """Take them from a sample of vectors [N, D]."""
        return cls(vectors.min(axis=0), vectors.max(axis=0))

    @property
    def step(self) -> Floats:
        """Width [D] of a step; 1 where a dimension does not vary."""
        width = (self.high - self.low) / np.float32(LEVELS)
        found: Floats = np.where(width > 0, width, np.float32(1)).astype(np.float32)
        return found


def to_int8(vectors: Floats, ranges: Ranges) -> npt.NDArray[np.int8]:
    """Round vectors [N, D] to the nearest of 256 levels; beyond the ranges the last level stands."""
    levels = np.rint((vectors - ranges.low) / ranges.step) - 128
    found: npt.NDArray[np.int8] = np.clip(levels, -128, 127).astype(np.int8)
    return found


def from_int8(levels: npt.NDArray[np.int8], ranges: Ranges) -> Floats:
    """Give the numbers [N, D] back that levels stand for."""
    found: Floats = ((levels.astype(np.float32) + 128) * ranges.step + ranges.low).astype(np.float32)
    return found


def signs(vectors: Floats) -> Floats:
    """One bit a dimension, as +1 and -1 [N, D]: inner products of these are D minus twice the Hamming distance."""
    return np.where(vectors > 0, np.float32(1), np.float32(-1))
