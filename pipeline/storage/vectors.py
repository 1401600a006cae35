"""Vectors as columns: numbers of four kinds, cut to fewer dimensions, several at once out of one pass.

int8 spreads the range of each dimension, as a sample shows it, over 255 steps; binary keeps the signs, eight a byte.
Both are those of Sentence Transformers' `quantize_embeddings` (`int8`, `ubinary`), but for rounding to the nearest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.storage import shards

Floats = npt.NDArray[np.floating[Any]]
Ranges = dict[str, list[list[float]]]  # dimensions as text, since JSON has no other keys: [low [D], high [D]]
Dtype = Literal["float32", "float16", "int8", "binary"]
STEPS = 255
_TILE = 4096  # vectors scaled at once
PLAIN = "float32", "float16"


class Format(Config):
    """One column of vectors."""

    dtype: Dtype = "float32"
    dim: int | None = Field(None, ge=1, description="leading dimensions that are kept; default: all")

    @property
    def name(self) -> str:
        """Name of the column when it is not the first."""
        return f"vector_{self.dtype}" + (f"_{self.dim}" if self.dim else "")


def with_text(rows: pa.Table, path: str, id_column: str, text_column: str, carried: Sequence[str] = ()) -> pa.Table:
    """Table (id, text, carried columns) of the rows whose text is neither null nor blank."""
    ids = shards.strings(rows, id_column, path, numbers=True)
    texts = shards.strings(rows, text_column, path)
    beside = {name: rows.column(name) for name in carried}
    return pa.table({"id": ids, "text": texts, **beside}).filter(not_blank(texts))


def not_blank(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which texts are neither null nor white space alone."""
    return pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), False)


def vectors_table(ids: pa.ChunkedArray, vectors: Floats, dtype: str) -> pa.Table:
    """Table (id, vector) of vectors [N, D] in `dtype`, as a fixed-size list that every Parquet reader knows."""
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(vectors, dtype=dtype)
    if not np.isfinite(flat).all():
        raise UserError(f"the model gives numbers that are not finite in {dtype}; try dtype float32")
    return pa.table({"id": ids, "vector": _fixed(flat)})


def columns(ids: pa.ChunkedArray, vectors: Floats, formats: Sequence[Format], ranges: Ranges, scaled: bool) -> pa.Table:
    """Table of ids and one column a format: `vector` for the first, `vector_<dtype>[_<dim>]` for the others.

    `scaled` says that the model's vectors have length 1, to which those that are cut are brought again.
    """
    named = zip(["vector", *(one.name for one in formats[1:])], formats, strict=True)
    held = {name: column(vectors, form, ranges, scaled=scaled) for name, form in named}
    return pa.table({"id": ids, **held})


def column(vectors: Floats, form: Format, ranges: Ranges, *, scaled: bool) -> pa.Array:
    """Vectors [N, D] in one format."""
    cut = shortened(vectors, form.dim, scaled=scaled)
    if form.dtype in PLAIN:
        return vectors_table(pa.nulls(len(cut)), cut, form.dtype).column("vector").combine_chunks()
    if not np.isfinite(cut).all():
        raise UserError("the model gives numbers that are not finite; try encoder.dtype float32")
    if form.dtype == "binary":
        return _fixed(np.packbits(cut > 0, axis=1))
    return _fixed(quantised(cut, ranges[str(cut.shape[1])]))


def shortened(vectors: Floats, dim: int | None, *, scaled: bool) -> Floats:
    """The first `dim` dimensions of vectors [N, D], at length 1 again where they had it."""
    if dim is None or dim == vectors.shape[1]:
        return vectors
    cut = np.ascontiguousarray(vectors[:, :dim], np.float32)
    return unit(cut) if scaled else cut


def quantised(vectors: Floats, lowest_highest: Sequence[Sequence[float]]) -> npt.NDArray[np.int8]:
    """Vectors [N, D] as int8: round((x - low) / step) - 128, step = (high - low) / 255, cut off outside the range."""
    low, step = _steps(lowest_highest)
    found: npt.NDArray[np.int8] = (np.clip(np.rint((vectors - low) / step), 0, STEPS) - 128).astype(np.int8)
    return found


def restored(codes: npt.NDArray[np.int8], lowest_highest: Sequence[Sequence[float]]) -> npt.NDArray[np.float32]:
    """Vectors [N, D] float32 out of int8: (code + 128) * step + low."""
    low, step = _steps(lowest_highest)
    found: npt.NDArray[np.float32] = ((codes.astype(np.float32) + 128) * step + low).astype(np.float32)
    return found


def _steps(lowest_highest: Sequence[Sequence[float]]) -> tuple[Floats, Floats]:
    low, high = (np.asarray(side, np.float32) for side in lowest_highest)
    return low, np.maximum(high - low, 1e-12) / STEPS


def calibrated(sample: Floats, formats: Sequence[Format], *, scaled: bool) -> Ranges:
    """Range of each dimension in a sample of vectors [S, D], for every length that is kept in int8."""
    found: Ranges = {}
    for form in formats:
        if form.dtype == "int8":
            cut = shortened(sample, form.dim, scaled=scaled)
            found[str(cut.shape[1])] = [cut.min(axis=0).tolist(), cut.max(axis=0).tolist()]
    return found


def check(formats: Sequence[Format], dim: int, carried: Sequence[str]) -> None:
    """Refuse what a model of `dim` dimensions cannot give, and columns of one name."""
    for form in formats:
        kept = form.dim or dim
        if kept > dim:
            raise UserError(f"{form.name}: {kept} dimensions are more than the model's {dim}")
        if form.dtype == "binary" and kept % 8:
            raise UserError(f"{form.name}: {kept} dimensions are not a multiple of 8, as packed signs need")
    names = ["id", "vector", "text_key", *(form.name for form in formats[1:]), *carried]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"output has more than one column '{twice[0]}'; its own are id, vector and vector_<dtype>")


def _fixed(rows: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])


def matrix(column: pa.ChunkedArray | pa.Array, ranges: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """A column of vectors as [N, D] float32: int8 is restored by its calibration, packed signs become -1 and 1."""
    held = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = held.type.list_size
    flat = held.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if flat.dtype == np.uint8:
        return np.unpackbits(flat, axis=1).astype(np.float32) * 2 - 1
    if flat.dtype == np.int8:
        return restored(flat, ranges[str(width)])
    plain: npt.NDArray[np.float32] = flat.astype(np.float32)
    return plain


def unit(vectors: Floats) -> Floats:
    """Vectors [N, D] scaled to length 1, so that the inner product is the cosine; zero vectors stay."""
    scaled = np.empty(vectors.shape, np.float32)
    for first in range(0, len(vectors), _TILE):
        part = vectors[first : first + _TILE]
        lengths = np.linalg.norm(part.astype(np.float64), axis=1, keepdims=True)
        scaled[first : first + _TILE] = part / np.where(lengths > 0, lengths, 1.0)
    return scaled


def vectors(corpus: Sequence[str]) -> Iterator[Floats]:
    """Stream the corpus vectors."""
    for table in shards.batches(corpus, ["vector"]):
        yield as_matrix(table["vector"])


def as_matrix(column: pa.ChunkedArray) -> Floats:
    """Vectors [N, D] of a fixed-size list column, as float32."""
    width = column.type.list_size
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    matrix: npt.NDArray[np.float32] = np.concatenate([*flat, np.empty(0, np.float16)]).astype(np.float32)
    return matrix.reshape(-1, width)
