"""The table `candidates` as arrays [P pairs, K candidates], which selection rules and sweeps compute with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.text.normalize import hash64

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class CandidateArrays:
    """Candidates of pairs in the order of the search; unknown values are NaN, and missing candidates score -inf."""

    scores: Floats  # [P, K] cosine to the anchor; -inf: no candidate
    positive: Floats  # [P] cosine of the positive to the anchor
    cross: Floats  # [P, K] of a cross-encoder
    positive_cross: Floats  # [P]
    lexical: Floats  # [P, K] BM25
    positive_lexical: Floats  # [P]
    positive_similarity: Floats  # [P, K] cosine to the positive
    clusters: Keys  # [P, K] near-duplicate cluster; 0: none
    same_category: Bools  # [P, K] as the positive
    shared_tags: Ints  # [P, K] with the positive
    pair_keys: Keys | None = None  # [P] hashes by which rules sample
    doc_keys: Keys | None = None  # [P, K]

    @classmethod
    def from_scores(cls, scores: Floats, positive: Floats) -> "CandidateArrays":
        """Candidates of which only their scores [P, K] and their positives' scores [P] are known."""
        shape, unknown = scores.shape, np.full(scores.shape, np.nan, np.float32)
        unknown_positive = np.full(shape[0], np.nan, np.float32)
        return cls(
            scores, positive, unknown, unknown_positive, unknown, unknown_positive, unknown,
            np.zeros(shape, np.uint64), np.zeros(shape, np.bool_), np.zeros(shape, np.int32),
        )  # fmt: skip

    @classmethod
    def from_table(cls, table: pa.Table, *, with_keys: bool = False) -> "CandidateArrays":
        """Arrays of a table `candidates`; rules that sample need them `with_keys`."""
        lists = as_array(table["candidates"])
        row, column, width = list_positions(lists)
        flat = lists.flatten()

        def grid(name: str, missing: float, dtype: type) -> npt.NDArray[Any]:
            array: npt.NDArray[Any] = np.full((len(lists), width), missing, dtype)
            values = pc.fill_null(flat.field(name), pa.scalar(missing, flat.type.field(name).type))
            array[row, column] = values.to_numpy(zero_copy_only=False)
            return array

        grids = {
            "scores": grid("score", -np.inf, np.float32),
            "cross": grid("cross_score", np.nan, np.float32),
            "lexical": grid("lexical_score", np.nan, np.float32),
            "positive_similarity": grid("positive_similarity", np.nan, np.float32),
            "clusters": grid("cluster", 0, np.uint64),
            "shared_tags": grid("shared_tags", 0, np.int32),
        }
        same_category = np.zeros((len(lists), width), np.bool_)
        same_category[row, column] = pc.fill_null(flat.field("same_category"), False).to_numpy(zero_copy_only=False)
        positives = {
            name: pc.fill_null(table[f"{name}_score"], np.nan).to_numpy().astype(np.float32)
            for name in ("positive", "positive_cross", "positive_lexical")
        }
        keys = {}
        if with_keys:
            docs = np.zeros((len(lists), width), np.uint64)
            docs[row, column] = hash_ids(flat.field("doc_id"))
            ids = zip(table["anchor_id"].to_pylist(), table["positive_id"].to_pylist(), strict=True)
            pairs = np.fromiter((hash64(*pair) for pair in ids), np.uint64, len(lists))
            keys = {"pair_keys": pairs, "doc_keys": docs}
        return cls(same_category=same_category, **grids, **positives, **keys)  # type: ignore[arg-type]


def as_array(column: pa.ChunkedArray) -> Any:
    """A column as one array."""
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def list_positions(lists: pa.ListArray) -> tuple[Rows, Rows, int]:
    """Row of every element of lists, its position in its row, and the length of the longest list."""
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    row = np.repeat(np.arange(len(lists)), counts)
    position = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, position, int(counts.max(initial=0))


def hash_ids(ids: pa.Array) -> Keys:
    """Hashes [N] of ids, each distinct one hashed once."""
    encoded = ids.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    hashed = np.fromiter((hash64(name) for name in distinct), np.uint64, len(distinct))
    keys: Keys = hashed[encoded.indices.to_numpy()]
    return keys
