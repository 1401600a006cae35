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
class Cells:
    """Candidates of pairs, in their order; what is not known of one is NaN, -inf a score where there is none."""

    scores: Floats  # [P, K] cosine to the anchor; -inf: no candidate
    positive: Floats  # [P]
    cross: Floats  # [P, K] of a reranker
    positive_cross: Floats  # [P]
    lexical: Floats  # [P, K] BM25
    positive_lexical: Floats  # [P]
    similar: Floats  # [P, K] cosine to the positive
    clusters: Keys  # [P, K]; 0: none
    same_category: Bools  # [P, K]
    shared_tags: Ints  # [P, K]
    pair_keys: Keys | None = None  # [P], what lots are drawn from
    doc_keys: Keys | None = None  # [P, K]

    @classmethod
    def of_scores(cls, scores: Floats, positive: Floats) -> "Cells":
        """Candidates of which nothing but the scores [P, K] is known, and their positives' scores [P]."""
        shape, none = scores.shape, np.full(scores.shape, np.nan, np.float32)
        alone = np.full(shape[0], np.nan, np.float32)
        return cls(
            scores, positive, none, alone, none, alone, none,
            np.zeros(shape, np.uint64), np.zeros(shape, np.bool_), np.zeros(shape, np.int32),
        )  # fmt: skip

    @classmethod
    def of(cls, table: pa.Table, *, keyed: bool = False) -> "Cells":
        """Cells of a table `candidates`; `keyed` ones can be sampled."""
        column = whole(table["candidates"])
        row, place, width = spread(column)
        flat = column.flatten()

        def grid(name: str, empty: float, kind: type) -> npt.NDArray[Any]:
            out: npt.NDArray[Any] = np.full((len(column), width), empty, kind)
            known = pc.fill_null(flat.field(name), pa.scalar(empty, flat.type.field(name).type))
            out[row, place] = known.to_numpy(zero_copy_only=False)
            return out

        named = {
            "scores": grid("score", -np.inf, np.float32),
            "cross": grid("cross_score", np.nan, np.float32),
            "lexical": grid("lexical_score", np.nan, np.float32),
            "similar": grid("positive_similarity", np.nan, np.float32),
            "clusters": grid("cluster", 0, np.uint64),
            "shared_tags": grid("shared_tags", 0, np.int32),
        }
        same = np.zeros((len(column), width), np.bool_)
        same[row, place] = pc.fill_null(flat.field("same_category"), False).to_numpy(zero_copy_only=False)
        alone = {
            name: pc.fill_null(table[f"{name}_score"], np.nan).to_numpy().astype(np.float32)
            for name in ("positive", "positive_cross", "positive_lexical")
        }
        keys = {}
        if keyed:
            docs = np.zeros((len(column), width), np.uint64)
            docs[row, place] = doc_keys(flat.field("doc_id"))
            names = zip(table["anchor_id"].to_pylist(), table["positive_id"].to_pylist(), strict=True)
            pairs = np.fromiter((hash64(*pair) for pair in names), np.uint64, len(column))
            keys = {"pair_keys": pairs, "doc_keys": docs}
        return cls(same_category=same, **named, **alone, **keys)  # type: ignore[arg-type]


def whole(column: pa.ChunkedArray) -> pa.ListArray:
    """A list column in one piece; no list is missing."""
    joined = column.combine_chunks()
    return joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined


def spread(column: pa.ListArray) -> tuple[Rows, Rows, int]:
    """Row and place in its row of every element of lists, and the length of the longest."""
    counts = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    row = np.repeat(np.arange(len(column)), counts)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, place, int(counts.max(initial=0))


def doc_keys(ids: pa.Array) -> Keys:
    """Hashes [N] of ids, each distinct one hashed once."""
    encoded = ids.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    hashed = np.fromiter((hash64(name) for name in distinct), np.uint64, len(distinct))
    keys: Keys = hashed[encoded.indices.to_numpy()]
    return keys
