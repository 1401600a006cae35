"""Shingles: a text as the set of its runs of one and two words, and the Jaccard index of two such sets.

Words are runs of letters and digits in lower case; in scripts that are written without blanks every character is one.
Single words keep short questions comparable, pairs keep the order in what is compared: two texts of n words that differ
in one word have the Jaccard index (2n - 4) / (2n + 2), so 0.8 allows one changed word in fourteen.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

Hashes = npt.NDArray[np.uint64]
_ALONE = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
_BETWEEN = r"[^\p{L}\p{M}\p{N}]+"
_STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Shingles:
    """Hashes of the shingles of N texts, text after text: those of text i are `hashes[offsets[i] : offsets[i + 1]]`."""

    hashes: Hashes
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def counts(self) -> npt.NDArray[np.int64]:
        """Shingles of each text [N], repeated ones counted."""
        return np.diff(self.offsets)

    def of(self, row: int) -> set[int]:
        """Return the shingles of one text."""
        return set(self.hashes[self.offsets[row] : self.offsets[row + 1]].tolist())


def shingle(texts: pa.Array | pa.ChunkedArray, words: int = 2) -> Shingles:
    """Texts [N] into their shingles, runs of one to `words` words; a text without a word has none."""
    hashed, counts = _words(texts)
    ends = np.repeat(np.cumsum(counts), counts)
    grid, valid = [hashed], [np.ones(len(hashed), dtype=bool)]
    for length in range(2, words + 1):
        follower = np.concatenate([hashed[length - 1 :], np.zeros(min(length - 1, len(hashed)), dtype=np.uint64)])
        grid.append(mix(grid[-1] * _STEP + follower))
        valid.append(np.arange(len(hashed)) + length <= ends)
    inside = np.stack(valid, axis=1)
    runs = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    offsets = runs[np.concatenate([[0], np.cumsum(counts)])]
    return Shingles(np.ascontiguousarray(np.stack(grid, axis=1)[inside]), offsets.astype(np.int64))


def jaccard(left: Shingles, right: Shingles, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Jaccard index |A & B| / |A | B| of pairs [P, 2] of (row of left, row of right) into [P]; 0 for two empty sets."""
    index = np.zeros(len(pairs))
    for row, (left_row, right_row) in enumerate(pairs.tolist()):
        a, b = left.of(left_row), right.of(right_row)
        shared = len(a & b)
        index[row] = shared / max(1, len(a) + len(b) - shared)
    return index


def mix(values: Hashes) -> Hashes:
    """Spread 64-bit values: the finaliser of splitmix64, so that every bit depends on every bit."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def _words(texts: pa.Array | pa.ChunkedArray) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes of all words in order, and how many each text has; every distinct word is hashed once."""
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    lower = pc.utf8_lower(pc.fill_null(array.cast(pa.large_string()), ""))
    alone = pc.replace_substring_regex(lower, _ALONE, r" \1 ")
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(alone, _BETWEEN, " "))
    counts = np.where(pc.equal(plain, "").to_numpy(zero_copy_only=False), 0, pc.add(pc.count_substring(plain, " "), 1))
    flat = pc.list_flatten(pc.split_pattern(plain, " "))
    encoded = flat.filter(pc.not_equal(flat, "")).dictionary_encode()
    hashes = np.array(
        [xxhash.xxh3_64_intdigest(word.encode()) for word in encoded.dictionary.to_pylist()], dtype=np.uint64
    )
    return hashes[encoded.indices.to_numpy()] if len(encoded) else hashes, counts.astype(np.int64)
