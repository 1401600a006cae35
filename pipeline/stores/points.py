"""Rows of vectors as points: a key, a hash of all that a store holds of it, and a payload that JSON can write."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.core.schema import PASSAGE
from pipeline.storage.vectors import to_matrix
from pipeline.stores.store import Point

_TEXT, _START = PASSAGE.names


def points_of(table: pa.Table, column: str, ranges: Mapping[str, Any], payload: Sequence[str]) -> list[Point]:
    """Points of a table of vectors, in its order."""
    vectors, ids = to_matrix(table[column], ranges), table["id"].to_pylist()
    starts = table[_START].to_pylist() if _START in table.column_names else [None] * len(ids)
    rows = table.select(list(payload)).to_pylist() if payload else [{} for _ in ids]
    return [
        Point(key, document, digest(vector, row), vector, row)
        for key, document, vector, row in zip(map(point_key, ids, starts), ids, vectors, rows, strict=True)
    ]


def point_key(document: str, start: int | None) -> str:
    """Key of a document, or of its passage that starts at a character.

    >>> point_key("a", None), point_key("a", 120)
    ('a', 'a#120')
    """
    return document if start is None else f"{document}#{start}"


def digest(vector: npt.NDArray[np.float32], payload: Mapping[str, Any]) -> str:
    """Hash of a vector and its payload, as 32 hexadecimal digits of XXH3.

    >>> digest(np.zeros(2, np.float32), {"title": "a"}) == digest(np.zeros(2, np.float32), {"title": "b"})
    False
    """
    state = xxhash.xxh3_128(np.ascontiguousarray(vector, "<f4").tobytes())
    state.update(as_json(payload).encode())
    return str(state.hexdigest())


def as_json(payload: Mapping[str, Any]) -> str:
    """A payload as JSON; times and other types that JSON has not are written as texts."""
    return json.dumps(payload, default=str, ensure_ascii=False, sort_keys=True)


def key_hashes(keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    """64-bit hashes [n] of keys."""
    return np.array([xxhash.xxh3_64_intdigest(key.encode()) for key in keys], np.uint64)
