"""The rules of `text` over Arrow columns: kernels for what is plain, the rule itself for what is not.

Every function gives row by row what its namesake in `text` gives; nulls stay null. Most texts of most corpora are in
normal form already, and one look at the bytes of a column tells which.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.text.normalize import html_to_text, normalise, shorten

Texts: TypeAlias = pa.Array | pa.ChunkedArray
Mask = npt.NDArray[np.bool_]
_BLANK = 0x20


def _bytes_of(*ranges: tuple[int, int]) -> Mask:
    """Table [256] of the bytes in any of the ranges."""
    table = np.zeros(256, dtype=bool)
    for first, last in ranges:
        table[first : last + 1] = True
    return table


# what makes a text worth a look: `<`, `&`, control characters, and the bytes that begin invisible characters
_MARKUP = _bytes_of(
    (0, 8), (14, 27), (0x26, 0x26), (0x3C, 0x3C), (0x7F, 0x7F), (0xC2, 0xC2), (0xE2, 0xE2), (0xED, 0xED), (0xEF, 0xEF)
)
_ASCII = 0x7F  # the last
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint8).reshape(256, 2)
_EDGE = _bytes_of((0, 0x20), (0x7F, 0xFF))  # what may be white space, or the beginning or end of some


def whole(column: Texts) -> pa.Array:
    """One array of a column."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def normalised(texts: Texts) -> pa.Array:
    """Normal forms of texts [N]."""
    texts = whole(texts)
    return _mended(texts, _not_normal(texts), normalise)


def from_html(texts: Texts, rule: Callable[[str], str] = html_to_text) -> pa.Array:
    """Plain texts [N] of HTML; `rule` is what makes one of a text that may hold markup."""
    texts = whole(texts)
    return _mended(texts, _holding(texts, _MARKUP), rule)


def stripped(texts: Texts) -> pa.Array:
    """Texts [N] without white space around them."""
    texts = whole(texts)
    data, ends = _bounds(texts)
    if not len(data):
        return texts
    edge = _EDGE[data[np.minimum(ends[:-1], len(data) - 1)]] | _EDGE[data[np.maximum(ends[1:], 1) - 1]]
    return _mended(texts, edge & (ends[1:] > ends[:-1]) & _valid(texts), str.strip)


def shortened(texts: Texts, limit: int) -> pa.Array:
    """Texts [N] of at most `limit` characters."""
    texts = whole(texts)
    return _mended(texts, longer(texts, limit), partial(shorten, limit=limit))


def longer(texts: Texts, limit: int) -> Mask:
    """Which texts [N] have more than `limit` characters."""
    return _true(pc.greater(pc.utf8_length(texts), limit))


def keys(texts: Texts) -> pa.Array:
    """128-bit keys of normalised texts [N]."""
    texts = whole(texts)
    data, ends = _bounds(texts)
    foreign = _rows(np.flatnonzero(data > _ASCII), ends) & _valid(texts)
    lower = pc.ascii_lower(texts)
    lower = _mended(lower, foreign, str.casefold) if foreign.any() else lower
    digests = b"".join(map(xxhash.xxh3_128_digest, lower.cast(pa.binary()).to_pylist()))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(texts), [None, pa.py_buffer(digests)])


def hashes(names: Texts, *before: object) -> npt.NDArray[np.uint64]:
    """64-bit hashes [N] of the parts `before` and each name: `hash64(*before, name)`."""
    names = whole(names)
    if before:
        names = pc.binary_join_element_wise("\x1f".join(map(str, before)), names, "\x1f")
    found = map(xxhash.xxh3_64_intdigest, names.cast(pa.binary()).to_pylist())
    return np.fromiter(found, np.uint64, len(names))


def words(keys: Texts) -> npt.NDArray[np.uint64]:
    """First 64 bits of 128-bit keys [N]."""
    keys = whole(keys)
    return np.frombuffer(keys.buffers()[1], dtype="<u8")[2 * keys.offset : 2 * (keys.offset + len(keys)) : 2]


def named_after(keys: pa.Array, mark: str) -> pa.Array:
    """Ids [N] `mark-` and the first 64 bits of 128-bit keys, in hexadecimal."""
    start = np.frombuffer(f"{mark}-".encode(), np.uint8)
    letters = np.empty((len(keys), len(start) + 16), np.uint8)
    letters[:, : len(start)] = start
    letters[:, len(start) :] = _HEX[words(keys)[:, None].view(np.uint8)].reshape(len(keys), 16)
    ends = np.arange(len(keys) + 1, dtype=np.int32) * letters.shape[1]
    return pa.StringArray.from_buffers(len(keys), pa.py_buffer(ends), pa.py_buffer(letters))


def _true(mask: Texts) -> Mask:
    found: Mask = pc.fill_null(whole(mask), False).to_numpy(zero_copy_only=False)
    return found


def _mended(texts: pa.Array, mask: Mask, rule: Callable[[str], str]) -> pa.Array:
    """Texts [N] with those of the mask put through a rule of `text`."""
    if not mask.any():
        return texts
    odd = pa.array(mask)
    mended = [rule(text) for text in texts.filter(odd).to_pylist()]
    return pc.replace_with_mask(texts, odd, pa.array(mended, texts.type))


def _bounds(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Bytes of texts [N], and where each begins and the last one ends [N + 1]."""
    _, offsets, data = texts.buffers()
    if offsets is None or data is None or not len(texts):
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int32)
    ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]], ends - ends[0]


def _rows(places: npt.NDArray[np.int64], ends: npt.NDArray[np.int32]) -> Mask:
    """Which texts [N] the bytes at `places` belong to."""
    found = np.zeros(len(ends) - 1, dtype=bool)
    found[np.searchsorted(ends, places, side="right") - 1] = True
    return found


def _valid(texts: pa.Array) -> Mask:
    mask: Mask = texts.is_valid().to_numpy(zero_copy_only=False)
    return mask


def _holding(texts: pa.Array, table: Mask) -> Mask:
    """Which texts [N] hold a byte of the table [256]."""
    data, ends = _bounds(texts)
    return _rows(np.flatnonzero(table[data]), ends) & _valid(texts)


def _not_normal(texts: pa.Array) -> Mask:
    """Which texts [N] may differ from their normal form: all but printable ASCII with single blanks inside."""
    data, ends = _bounds(texts)
    if not len(data):
        return np.zeros(len(texts), dtype=bool)
    blank = data == _BLANK
    odd = (data - np.uint8(_BLANK)) > np.uint8(0x7E - _BLANK)
    odd[1:] |= blank[1:] & blank[:-1]
    found = _rows(np.flatnonzero(odd), ends)
    some = ends[1:] > ends[:-1]
    first, last = np.minimum(ends[:-1], len(data) - 1), np.maximum(ends[1:], 1) - 1
    mask: Mask = (found | (some & (blank[first] | blank[last]))) & _valid(texts)
    return mask
