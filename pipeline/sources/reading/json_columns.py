"""Reads lines of JSON objects into Arrow columns, where Arrow's reader and Python's cannot disagree.

Arrow reads a stream of objects and does not care for lines. A line that begins with `{` and ends with `}` cannot hold
only a part of an object that the next such line goes on with, so as many objects as lines means one object a line.
"""

import io
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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


def types(piece: Lines, names: set[str]) -> pa.Schema | None:
    """Infer types of the named fields from the first lines; None where one is no text, number or list of texts."""
    dtypes: dict[str, pa.DataType] = {}
    for _, (_, raw) in piece.rows(np.arange(min(LOOKED_AT, len(piece)))):
        try:
            row: Any = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        for name in names & set(row) if isinstance(row, dict) else ():
            dtype = _type(row[name])
            if dtype is None or (dtypes.get(name, dtype) not in (dtype, pa.null()) and dtype != pa.null()):
                return None
            if dtypes.get(name, pa.null()) == pa.null():
                dtypes[name] = dtype
    return pa.schema([(name, pa.string() if dtype == pa.null() else dtype) for name, dtype in sorted(dtypes.items())])


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
