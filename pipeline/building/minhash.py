"""MinHash sketches of texts, and bands of them: texts that share a band's key are candidates for near duplicates.

The chance that two texts of Jaccard index s share one of b bands of r slots is 1 - (1 - s^r)^b (Broder 1997; Indyk and
Motwani 1998). Candidates are compared exactly afterwards: bands can miss a pair, never invent one.
The sketches are those of `rensa`, in Rust and without dependencies: a hundred times faster than `datasketch` here.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipeline.building.shingles import Hashes, Shingles, mix, shingle
from pipeline.core.config import Config

SLOTS, SEED = 128, 42
RECALL = 0.98  # probability that a pair at the threshold itself is found; higher above it
PIECE = 8192  # texts that are sketched at once
_SPREAD = 4.0  # standard deviations of bits below the expected ones at which a candidate is left out


class NearConfig(Config):
    """When two texts are near duplicates."""

    threshold: float = Field(
        default=0.8, ge=0.5, le=1, description="least Jaccard index of the shingles of near duplicates"
    )
    words: int = Field(default=2, ge=1, le=5, description="a shingle is a run of one to this many words")

    @property
    def rows(self) -> int:
        """Slots of a band: as many as still find a pair at the threshold with probability `RECALL`."""
        return max(r for r in range(1, 33) if 1 - (1 - self.threshold**r) ** (SLOTS // r) >= RECALL)

    @property
    def bands(self) -> int:
        """Bands of a sketch."""
        return SLOTS // self.rows

    @property
    def min_shared_bits(self) -> int:
        """Bits of 64 that the sketches of two near duplicates share; one pair in thousands shares fewer."""
        share = (1 + self.threshold) / 2
        return int(64 * share - _SPREAD * np.sqrt(64 * share * (1 - share)))


@dataclass(frozen=True)
class Sketches:
    """Sketches of N texts: keys of their bands [N, b], one bit of 64 slots [N], and which texts have a shingle [N]."""

    keys: Hashes
    bits: Hashes
    usable: npt.NDArray[np.bool_]

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """Indices of the usable texts."""
        return np.flatnonzero(self.usable)


def sketch(texts: pa.Array | pa.ChunkedArray, config: NearConfig) -> Sketches:
    """Texts [N] into sketches, piece by piece."""
    parts = [_sketch(shingle(texts[start : start + PIECE], config.words), config) for start in _starts(len(texts))]
    return Sketches(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _starts(count: int) -> range:
    return range(0, max(1, count), PIECE)


def _sketch(shingles: Shingles, config: NearConfig) -> tuple[Hashes, Hashes, npt.NDArray[np.bool_]]:
    """Keys of bands, bits and usability of some texts."""
    import rensa

    if not len(shingles):
        return np.zeros((0, config.bands), np.uint64), np.zeros(0, np.uint64), np.zeros(0, bool)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        shingles.hashes, shingles.offsets.astype(np.uint64), SLOTS, SEED
    )
    slots = mix(np.array(matrix.to_rows(), dtype=np.uint64))
    banded = slots[:, : config.bands * config.rows].reshape(len(slots), config.bands, config.rows)
    with np.errstate(over="ignore"):
        keys = np.broadcast_to(np.arange(config.bands, dtype=np.uint64), banded.shape[:2])
        for row in range(config.rows):
            keys = mix(keys * np.uint64(0x9E3779B97F4A7C15) + banded[:, :, row])
    packed = np.packbits((slots[:, :64] & np.uint64(1)).astype(np.uint8), axis=1)
    return keys, np.ascontiguousarray(packed).view(np.uint64)[:, 0], shingles.counts() > 0


def may_be_near(left: Hashes, right: Hashes, config: NearConfig) -> npt.NDArray[np.bool_]:
    """Whether the bits of pairs of sketches [P] allow for near duplicates: a cheap test before the exact one."""
    near: npt.NDArray[np.bool_] = np.bitwise_count(left ^ right) <= 64 - config.min_shared_bits
    return near
