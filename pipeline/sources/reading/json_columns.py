"""Reads lines of JSON objects into Arrow columns, where Arrow's reader and Python's cannot disagree.

Arrow reads a stream of objects and does not care for lines. A line that begins with `{` and ends with `}` cannot hold
only a part of an object that the next such line goes on with, so as many objects as lines means one object a line.
"""

import io
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.reading.mapping import Mapping
from pipeline.sources.reading.roles import numbered
from pipeline.storage.lines import Lines

LOOKED_AT = 20  # first lines of a piece, from which the types of its fields follow
_OPEN, _CLOSE, _RETURN = ord("{"), ord("}"), ord("\r")


def sound(piece: Lines) -> npt.NDArray[np.bool_]:
    """Which lines [N] begin with `{` and end with `}`."""
    data, starts = np.frombuffer(piece.data, np.uint8), piece.starts
    last = starts[1:] - 1 - (data[starts[1:] - 1] == ord("\n"))
    last -= data[np.maximum(last, 0)] == _RETURN
    complete: npt.NDArray[np.bool_] = (last > starts[:-1]) & (data[starts[:-1]] == _OPEN) & (data[last] == _CLOSE)
    return complete


def types(piece: Lines, mapping: Mapping) -> pa.Schema | None:
    """Infer types of the fields that are read from the first lines; None where only the row path can read one.

    A field that comes up further down only is taken for text: where it is none, reading fails and falls back to rows.
    """
    dtypes: dict[str, pa.DataType] = {}
    for row in _first_rows(piece):
        for name in filter(mapping.reads, row):
            dtype = _type(row[name])
            if dtype is None or (dtypes.get(name, dtype) not in (dtype, pa.null()) and dtype != pa.null()):
                return None
            if dtypes.get(name, pa.null()) == pa.null():
                dtypes[name] = dtype
    later = _further_fields(piece, mapping, dtypes)
    if any(numbered(name) in mapping.names("negative") for name in later):
        return None
    dtypes |= dict.fromkeys(later, pa.string())
    return pa.schema([(name, pa.string() if dtype == pa.null() else dtype) for name, dtype in sorted(dtypes.items())])


def _further_fields(piece: Lines, mapping: Mapping, seen: Collection[str]) -> set[str]:
    """Fields that are read and that the first lines lack: one pass tells that there is none, as a rule."""
    names = [re.escape(name) for name in mapping.known_fields - set(seen)]
    names += [rf"{re.escape(name)}_?\d+" for name in mapping.names("negative")]
    pattern = rf'"({"|".join(names)})"\s*:'
    if not names or not pc.match_substring_regex(pa.array([piece.data], pa.large_binary()), pattern)[0].as_py():
        return set()
    return {name.decode() for name in re.findall(pattern.encode(), piece.data)}


def unread(piece: Lines, mapping: Mapping) -> set[str]:
    """Return the fields of the first lines from which nothing is read."""
    return {name for row in _first_rows(piece) for name in row if not mapping.reads(name)}


def _first_rows(piece: Lines) -> Iterator[dict[str, Any]]:
    for _, (_, raw) in piece.rows(np.arange(min(LOOKED_AT, len(piece)))):
        try:
            row: Any = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _type(value: Any) -> pa.DataType | None:
    if value is None:
        return pa.null()
    if isinstance(value, list):
        return pa.list_(pa.string()) if all(isinstance(item, str) for item in value) else None
    scalar_types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    return scalar_types.get(type(value))


def table(data: bytes, count: int, schema: pa.Schema) -> pa.Table | None:
    """Fields of `schema` of sound lines; None where they do not read as `count` objects of these types."""
    from pyarrow import json as arrow

    try:
        data.isascii() or data.decode("utf-8")
        rows = arrow.read_json(
            io.BytesIO(data),
            read_options=arrow.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=arrow.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        return None
    return rows.combine_chunks() if rows.num_rows == count else None
