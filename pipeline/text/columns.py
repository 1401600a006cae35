"""The rules of `pipeline.text.normalize` over Arrow columns, as fast as their plain texts allow.

`normalise_column` gives row by row what `normalise` gives for the text, and so on; nulls stay null. Most texts of most
corpora are in normal form already: the bytes of a column show which, and only the others go through the rule.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.text.normalize import folded, html_to_text, normalise, shorten

Texts: TypeAlias = pa.Array | pa.ChunkedArray
Mask = npt.NDArray[np.bool_]
_BLANK = 0x20


def _bytes_of(*ranges: tuple[int, int]) -> Mask:
    """Lookup table [256] of the bytes in any of the ranges."""
    table = np.zeros(256, dtype=bool)
    for first, last in ranges:
        table[first : last + 1] = True
    return table


# bytes of texts that may hold markup: `<`, `&`, control characters, and those that begin invisible characters
_MARKUP = _bytes_of(
    (0, 8), (14, 27), (0x26, 0x26), (0x3C, 0x3C), (0x7F, 0x7F), (0xC2, 0xC2), (0xE2, 0xE2), (0xED, 0xED), (0xEF, 0xEF)
)
_LAST_ASCII = 0x7F
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint8).reshape(256, 2)
_EDGE = _bytes_of((0, 0x20), (0x7F, 0xFF))  # what may be white space, or the beginning or end of some


def as_array(column: Texts) -> pa.Array:
    """Return a column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def normalise_column(texts: Texts) -> pa.Array:
    """Return the normal forms of texts [N]."""
    texts = as_array(texts)
    return _apply_where(texts, _not_normal(texts), normalise)


def html_to_text_column(texts: Texts, rule: Callable[[str], str] = html_to_text) -> pa.Array:
    """Return the plain texts [N] of HTML [N]; `rule` converts a text that may hold markup."""
    texts = as_array(texts)
    return _apply_where(texts, _contains(texts, _MARKUP), rule)


def strip_column(texts: Texts) -> pa.Array:
    """Return texts [N] without white space around them."""
    texts = as_array(texts)
    data, ends = _bounds(texts)
    if not len(data):
        return texts
    edge = _EDGE[data[np.minimum(ends[:-1], len(data) - 1)]] | _EDGE[data[np.maximum(ends[1:], 1) - 1]]
    return _apply_where(texts, edge & (ends[1:] > ends[:-1]) & _valid(texts), str.strip)


def shorten_column(texts: Texts, limit: int) -> pa.Array:
    """Return texts [N] cut to at most `limit` characters."""
    texts = as_array(texts)
    return _apply_where(texts, longer_than(texts, limit), partial(shorten, limit=limit))


def longer_than(texts: Texts, limit: int) -> Mask:
    """Mask [N] of the texts that have more than `limit` characters."""
    return _to_mask(pc.greater(pc.utf8_length(texts), limit))


def key_column(texts: Texts) -> pa.Array:
    """Return the 128-bit keys of normalised texts [N]."""
    texts = as_array(texts)
    data, ends = _bounds(texts)
    foreign = _rows_of(np.flatnonzero(data > _LAST_ASCII), ends) & _valid(texts)
    lower = pc.ascii_lower(texts)
    lower = _apply_where(lower, foreign, folded) if foreign.any() else lower
    digests = b"".join(map(xxhash.xxh3_128_digest, lower.cast(pa.binary()).to_pylist()))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(texts), [None, pa.py_buffer(digests)])


def hash64_column(names: Texts, *before: object) -> npt.NDArray[np.uint64]:
    """Return the 64-bit hashes [N] of the parts `before` with each name: `hash64(*before, name)`."""
    names = as_array(names)
    if before:
        names = pc.binary_join_element_wise("\x1f".join(map(str, before)), names, "\x1f")
    digests = map(xxhash.xxh3_64_intdigest, names.cast(pa.binary()).to_pylist())
    return np.fromiter(digests, np.uint64, len(names))


def key_prefixes(keys: Texts) -> npt.NDArray[np.uint64]:
    """Return the first 64 bits of 128-bit keys [N]."""
    keys = as_array(keys)
    return np.frombuffer(keys.buffers()[1], dtype="<u8")[2 * keys.offset : 2 * (keys.offset + len(keys)) : 2]


def ids_from_keys(keys: pa.Array, mark: str) -> pa.Array:
    """Return ids [N] made of `mark`, a dash and the first 64 bits of 128-bit keys in hexadecimal."""
    start = np.frombuffer(f"{mark}-".encode(), np.uint8)
    letters = np.empty((len(keys), len(start) + 16), np.uint8)
    letters[:, : len(start)] = start
    letters[:, len(start) :] = _HEX[key_prefixes(keys)[:, None].view(np.uint8)].reshape(len(keys), 16)
    ends = np.arange(len(keys) + 1, dtype=np.int32) * letters.shape[1]
    return pa.StringArray.from_buffers(len(keys), pa.py_buffer(ends), pa.py_buffer(letters))


def _to_mask(column: Texts) -> Mask:
    mask: Mask = pc.fill_null(as_array(column), False).to_numpy(zero_copy_only=False)
    return mask


def _apply_where(texts: pa.Array, mask: Mask, rule: Callable[[str], str]) -> pa.Array:
    """Return texts [N] with the rule applied to those of the mask."""
    if not mask.any():
        return texts
    selected = pa.array(mask)
    replaced = [rule(text) for text in texts.filter(selected).to_pylist()]
    return pc.replace_with_mask(texts, selected, pa.array(replaced, texts.type))


def _bounds(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Return the bytes of texts [N], and the offsets [N + 1] where each begins and the last one ends."""
    _, offsets, data = texts.buffers()
    if offsets is None or data is None or not len(texts):
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int32)
    ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]], ends - ends[0]


def _rows_of(positions: npt.NDArray[np.int64], ends: npt.NDArray[np.int32]) -> Mask:
    """Mask [N] of the texts that the bytes at some positions belong to."""
    mask = np.zeros(len(ends) - 1, dtype=bool)
    mask[np.searchsorted(ends, positions, side="right") - 1] = True
    return mask


def _valid(texts: pa.Array) -> Mask:
    mask: Mask = texts.is_valid().to_numpy(zero_copy_only=False)
    return mask


def _contains(texts: pa.Array, table: Mask) -> Mask:
    """Mask [N] of the texts that hold a byte of the table [256]."""
    data, ends = _bounds(texts)
    return _rows_of(np.flatnonzero(table[data]), ends) & _valid(texts)


def _not_normal(texts: pa.Array) -> Mask:
    """Mask [N] of the texts that may differ from their normal form: all but printable ASCII with single blanks."""
    data, ends = _bounds(texts)
    if not len(data):
        return np.zeros(len(texts), dtype=bool)
    blank = data == _BLANK
    odd = (data - np.uint8(_BLANK)) > np.uint8(0x7E - _BLANK)
    odd[1:] |= blank[1:] & blank[:-1]
    inside = _rows_of(np.flatnonzero(odd), ends)
    nonempty = ends[1:] > ends[:-1]
    first, last = np.minimum(ends[:-1], len(data) - 1), np.maximum(ends[1:], 1) - 1
    mask: Mask = (inside | (nonempty & (blank[first] | blank[last]))) & _valid(texts)
    return mask


def without_brackets(texts: pa.Array) -> pa.Array:
    """Which values [N] begin with no bracket or brace, as a list or an object that is written as a text does."""
    if not (pa.types.is_string(texts.type) and len(texts)):
        return pa.array(np.ones(len(texts), dtype=bool))
    return pc.invert(pc.fill_null(pc.match_substring_regex(texts, r"^\s*[\[{]"), False))
