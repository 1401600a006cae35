"""Columns of vectors: four number types, truncated to fewer dimensions where asked, several columns in one pass.

int8 spreads the range of each dimension in a sample over 255 steps; binary keeps the signs, eight in a byte. Both are
those of Sentence Transformers' `quantize_embeddings` (`int8`, `ubinary`), but for rounding to the nearest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
FLOATS = "float32", "float16"


class VectorFormat(Config):
    """One column of vectors."""

    dtype: Dtype = "float32"
    dim: int | None = Field(None, ge=1, description="leading dimensions to keep; default: all")

    @property
    def name(self) -> str:
        """Name of the column where it is not the first."""
        return f"vector_{self.dtype}" + (f"_{self.dim}" if self.dim else "")

    @property
    def full_width(self) -> "VectorFormat":
        """The same for vectors that have been cut already."""
        return self.model_copy(update={"dim": None})


def rows_with_text(rows: pa.Table, path: str, id_column: str, text_column: str, extra: Sequence[str] = ()) -> pa.Table:
    """Return the table (id, text, extra columns) of the rows whose text is neither null nor blank."""
    ids = shards.string_column(rows, id_column, path, numbers=True)
    texts = shards.string_column(rows, text_column, path)
    columns = {name: rows.column(name) for name in extra}
    return pa.table({"id": ids, "text": texts, **columns}).filter(not_blank(texts))


def not_blank(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Mask [N] of the texts that are neither null nor white space alone."""
    return pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), False)


def vectors_table(ids: pa.ChunkedArray, vectors: Floats, dtype: str) -> pa.Table:
    """Return the table (id, vector) of vectors [N, D] in `dtype`; every Parquet reader knows its fixed-size lists."""
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(vectors, dtype=dtype)
    if not np.isfinite(flat).all():
        raise UserError(f"the model gives numbers that are not finite in {dtype}; try dtype float32")
    return pa.table({"id": ids, "vector": _fixed(flat)})


def formatted_table(
    ids: pa.ChunkedArray, vectors: Floats, formats: Sequence[VectorFormat], ranges: Ranges, scaled: bool
) -> pa.Table:
    """Return a table of ids and one column a format: `vector`, then `vector_<dtype>[_<dim>]` for the others.

    `scaled` says that the vectors have length 1; truncated ones are then scaled to length 1 again.
    """
    names = ["vector", *(form.name for form in formats[1:])]
    columns = [formatted_column(vectors, form, ranges, scaled=scaled) for form in formats]
    return pa.table({"id": ids, **dict(zip(names, columns, strict=True))})


def formatted_column(vectors: Floats, form: VectorFormat, ranges: Ranges, *, scaled: bool) -> pa.Array:
    """Return vectors [N, D] as a column in one format."""
    cut = truncate(vectors, form.dim, scaled=scaled)
    if form.dtype in FLOATS:
        return vectors_table(pa.nulls(len(cut)), cut, form.dtype).column("vector").combine_chunks()
    if not np.isfinite(cut).all():
        raise UserError("the model gives numbers that are not finite; try encoder.dtype float32")
    if form.dtype == "binary":
        return _fixed(np.packbits(cut > 0, axis=1))
    return _fixed(quantize_int8(cut, ranges[str(cut.shape[1])]))


def truncate(vectors: Floats, dim: int | None, *, scaled: bool) -> Floats:
    """Return the first `dim` dimensions of vectors [N, D], scaled to length 1 again where `scaled`."""
    if dim is None or dim == vectors.shape[1]:
        return vectors
    cut = np.ascontiguousarray(vectors[:, :dim], np.float32)
    return l2_normalize(cut) if scaled else cut


def quantize_int8(vectors: Floats, lowest_highest: Sequence[Sequence[float]]) -> npt.NDArray[np.int8]:
    """Quantise vectors [N, D] to int8: round((x - low) / step) - 128 with step = (high - low) / 255, clipped."""
    low, step = _steps(lowest_highest)
    codes: npt.NDArray[np.int8] = (np.clip(np.rint((vectors - low) / step), 0, STEPS) - 128).astype(np.int8)
    return codes


def dequantize_int8(codes: npt.NDArray[np.int8], lowest_highest: Sequence[Sequence[float]]) -> npt.NDArray[np.float32]:
    """Restore float32 vectors [N, D] from int8: (code + 128) * step + low."""
    low, step = _steps(lowest_highest)
    vectors: npt.NDArray[np.float32] = ((codes.astype(np.float32) + 128) * step + low).astype(np.float32)
    return vectors


def _steps(lowest_highest: Sequence[Sequence[float]]) -> tuple[Floats, Floats]:
    low, high = (np.asarray(side, np.float32) for side in lowest_highest)
    return low, np.maximum(high - low, 1e-12) / STEPS


def int8_ranges(sample: Floats, formats: Sequence[VectorFormat], *, scaled: bool) -> Ranges:
    """Return the range of each dimension in a sample of vectors [S, D], for each width that is stored in int8."""
    ranges: Ranges = {}
    for form in formats:
        if form.dtype == "int8":
            cut = truncate(sample, form.dim, scaled=scaled)
            ranges[str(cut.shape[1])] = [cut.min(axis=0).tolist(), cut.max(axis=0).tolist()]
    return ranges


def check_formats(
    formats: Sequence[VectorFormat], dim: int, extra: Sequence[str], reserved: Sequence[str] = ()
) -> None:
    """Raise UserError for formats that a model of `dim` dimensions cannot give, and for two columns of one name.

    `reserved` are further names of the output's own columns.
    """
    for form in formats:
        width = form.dim or dim
        if width > dim:
            raise UserError(f"{form.name}: {width} dimensions are more than the model's {dim}")
        if form.dtype == "binary" and width % 8:
            raise UserError(f"{form.name}: {width} dimensions are not a multiple of 8, as packed signs need")
    names = ["id", "vector", "text_key", *reserved, *(form.name for form in formats[1:]), *extra]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"output has more than one column '{repeated[0]}'; its own are id, vector, vector_<dtype> "
            "and, with passages, passage and passage_start"
        )


def _fixed(rows: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])


def to_matrix(
    column: pa.ChunkedArray | pa.Array, calibration: Mapping[str, Any] | None = None
) -> npt.NDArray[np.float32]:
    """Decode a column of vectors into [N, D] float32; packed signs become -1 and 1, int8 needs its calibration."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = array.type.list_size
    numbers = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if numbers.dtype == np.uint8:
        return np.unpackbits(numbers, axis=1).astype(np.float32) * 2 - 1
    if numbers.dtype == np.int8:
        return dequantize_int8(numbers, (calibration or {})[str(width)])
    floats: npt.NDArray[np.float32] = numbers.astype(np.float32)
    return floats


def l2_normalize(vectors: Floats) -> Floats:
    """Scale vectors [N, D] to length 1, so that the inner product is the cosine; zero vectors stay zero."""
    normalized = np.empty(vectors.shape, np.float32)
    for first in range(0, len(vectors), _TILE):
        tile = vectors[first : first + _TILE]
        lengths = np.linalg.norm(tile.astype(np.float64), axis=1, keepdims=True)
        normalized[first : first + _TILE] = tile / np.where(lengths > 0, lengths, 1.0)
    return normalized


def cosines(vectors: Floats, others: Floats) -> npt.NDArray[np.float64]:
    """Cosine [N] of each vector [N, D] with its counterpart, in float64; 0 where one of them is zero."""
    left, right = vectors.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosine: npt.NDArray[np.float64] = (left * right).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return cosine


_SIMILARITIES: dict[str, Callable[[Floats], Floats]] = {"cosine": l2_normalize, "dot": lambda vectors: vectors}


def comparable(vectors: Floats, similarity: str) -> Floats:
    """Make vectors [N, D] whose inner products are a similarity: of length 1 for cosine, as they are for dot.

    Raises UserError for another similarity.
    """
    if similarity not in _SIMILARITIES:
        raise UserError(f"similarity '{similarity}' is not supported; choose from {', '.join(_SIMILARITIES)}")
    return _SIMILARITIES[similarity](vectors)


def similarity_of(identity: Mapping[str, str] | None) -> str:
    """Name of the similarity that a model's identity states, cosine where it states none."""
    return (identity or {}).get("similarity", "cosine")


def stream_vectors(files: Sequence[str]) -> Iterator[Floats]:
    """Yield the column `vector` of Parquet files as [n, D] float32, one row group after the other."""
    for table in shards.read_batches(files, ["vector"]):
        yield to_matrix(table["vector"])
