"""Training rows as an Arrow table, tokenised once: what epochs are composed of, and what a step takes from one."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encoder.tokenizer import Tokens
from training.data.batching import Ints, Keys, Ragged, chosen
from training.data.rows import Rows

Tokenize = Callable[[list[str], Literal["query", "document"]], Tokens]

IDS, WORDS = pa.list_(pa.int64()), pa.list_(pa.int32())
NEGATIVE = pa.struct(
    [
        ("id", pa.int64()),
        ("cluster", pa.int64()),
        ("score", pa.float64()),
        ("teacher", pa.float64()),
        ("at", pa.int32()),  # place among the row's given negatives
        ("guide", pa.binary()),
        ("tokens", WORDS),
    ]
)
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # number among the training rows of a run
        ("stream", pa.string()),  # rows of two streams never share a batch
        ("source", pa.string()),
        ("table", pa.string()),  # where the texts are: the table that was read, and the row of it
        ("at", pa.int64()),
        ("share", pa.float64()),  # how often an epoch takes the row
        ("query_id", pa.int64()),
        ("positive_id", pa.int64()),
        ("relevant_id", IDS),
        ("positive_cluster", pa.int64()),
        ("relevant_cluster", IDS),
        ("label", pa.int64()),
        ("score", pa.float64()),
        ("weight", pa.float64()),
        ("teacher", pa.float64()),
        ("query_guide", pa.binary()),  # float16 vectors
        ("positive_guide", pa.binary()),
        ("anchor", WORDS),
        ("positive", WORDS),
        ("negatives", pa.list_(NEGATIVE)),
    ]
)
# columns that only some runs have, by the name under which a gather takes them
OPTIONAL = {
    "query.relevant_cluster": "relevant_cluster",
    "query.label": "label",
    "query.score": "score",
    "query.weight": "weight",
    "query.teacher": "teacher",
    "positive.cluster": "positive_cluster",
    "negative.cluster": "negatives.cluster",
    "negative.score": "negatives.score",
    "negative.teacher": "negatives.teacher",
}

MISSING = {"query.weight": 1.0, "negative.score": 0.0}  # what counts where nothing is given; elsewhere NaN


def tokenised(rows: Rows, tokenize: Tokenize, numbers: Ints | None = None) -> pa.Table:
    """Rows [N] with their numbers, from 0 where none are given, and their texts as token ids.

    `tokenize` takes texts and a role.
    """
    n = len(rows)
    counts = np.array([len(row) for row in rows.negatives], dtype=np.int64)
    known = rows.relevant_id >= 0
    guide = rows.guide.bytes() if rows.guide else {}
    columns = {
        "row": np.arange(n) if numbers is None else numbers,
        "stream": pa.array(rows.stream or [""] * n, pa.string()),
        "source": pa.array(rows.source or [""] * n, pa.string()),
        "table": pa.array(rows.table or [""] * n, pa.string()),
        "at": np.arange(n) if rows.at is None else rows.at,
        "share": np.ones(n) if rows.share is None else rows.share,
        "query_id": rows.query_id,
        "positive_id": rows.positive_id,
        "relevant_id": _lists(pa.array(rows.relevant_id[known]), known.sum(axis=1)),
        "positive_cluster": rows.positive_cluster,
        "relevant_cluster": None
        if rows.relevant_cluster is None
        else _lists(pa.array(rows.relevant_cluster[known]), known.sum(axis=1)),
        **{name: getattr(rows, name) for name in ("label", "score", "weight", "teacher")},
        "query_guide": guide.get("query"),
        "positive_guide": guide.get("positive"),
        "anchor": _words(tokenize(rows.anchors, "query")),
        "positive": _words(tokenize(rows.positives, "document")),
        "negatives": _lists(_negatives(rows, tokenize, counts, guide.get("negative")), counts),
    }
    return pa.table([_column(columns[field.name], field.type, n) for field in SCHEMA], schema=SCHEMA)


def _negatives(rows: Rows, tokenize: Tokenize, counts: Ints, guide: pa.Array | None) -> pa.Array:
    total = int(counts.sum())

    def flat(values: list[Ints] | list[npt.NDArray[np.float64]] | None) -> npt.NDArray[np.generic] | None:
        return None if values is None else np.concatenate([np.zeros(0), *values]).astype(values[0].dtype)

    columns = {
        "id": flat(rows.negative_id) if total else None,
        "cluster": flat(rows.negative_cluster) if total else None,
        "score": flat(rows.negative_score) if total else None,
        "teacher": flat(rows.negative_teacher) if total else None,
        "at": np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts),
        "guide": guide,
        "tokens": _words(tokenize([text for row in rows.negatives for text in row], "document")),
    }
    return pa.StructArray.from_arrays(
        [_column(columns[field.name], field.type, total) for field in NEGATIVE], fields=list(NEGATIVE)
    )


def _column(values: pa.Array | npt.NDArray[np.generic] | None, kind: pa.DataType, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, kind)
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _words(tokens: Tokens) -> pa.Array:
    return pa.array(tokens, WORDS)


def _lists(values: pa.Array, counts: Ints) -> pa.Array:
    """Lay values end to end in lists of the given lengths."""
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), values)


def ragged(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """Values of a column of lists, end to end, and how many every row has."""
    one = column.combine_chunks()
    one = one.chunk(0) if isinstance(one, pa.ChunkedArray) else one
    return one.flatten(), pc.fill_null(pc.list_value_length(one), 0).to_numpy().astype(np.int64)


def drawn(table: pa.Table, most: int | None, seed: int, epoch: int | None) -> pa.Table:
    """Rows with at most `most` of their given negatives: others each epoch, or the first where `epoch` is None."""
    given, counts = ragged(table["negatives"])
    if most is None or not len(counts) or int(counts.max()) <= most:
        return table
    if epoch is None:
        mask = given.field("at").to_numpy() < most
    else:
        mask = chosen(table["row"].to_numpy(), counts, most, seed, epoch)
    kept = _lists(given.take(pa.array(np.flatnonzero(mask))), np.minimum(counts, most))
    return table.set_column(table.column_names.index("negatives"), "negatives", kept)


def cost(table: pa.Table) -> Ints:
    """Tokens of every row [N], of all its texts."""
    given, counts = ragged(table["negatives"])
    own: Ints = sum(pc.list_value_length(table[name]).to_numpy().astype(np.int64) for name in ("anchor", "positive"))
    lengths = pc.list_value_length(given.field("tokens")).to_numpy().astype(np.int64)
    total = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.cumsum(counts)
    every: Ints = own + total[ends] - total[ends - counts]
    return every


def keys(table: pa.Table) -> Keys:
    """What composition must know of the rows."""
    given, counts = ragged(table["negatives"])
    known, sizes = ragged(table["relevant_id"])
    ids = given.field("id").to_numpy()
    starts = np.cumsum(counts) - counts
    documents = np.insert(ids, starts, table["positive_id"].to_numpy())
    return Keys(Ragged(documents, counts + 1), Ragged(known.to_numpy(), sizes))


def texts(table: pa.Table) -> dict[str, Tokens]:
    """Token ids of the rows' queries, positives and negatives, in order of rows."""
    given, _ = ragged(table["negatives"])
    return {
        "query": _pieces(*ragged(table["anchor"])),
        "positive": _pieces(*ragged(table["positive"])),
        "negative": _pieces(given.field("tokens").flatten(), pc.list_value_length(given.field("tokens")).to_numpy()),
    }


def _pieces(values: pa.Array, counts: Ints) -> Tokens:
    every, ends = values.to_numpy().tolist(), np.cumsum(counts).tolist()
    return [every[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def beside(table: pa.Table, columns: dict[str, int], width: int) -> dict[str, Ints]:
    """What travels with the texts of rows, by the names that a gather takes; floats as bits of float64.

    `columns` are the optional ones that the run has, a guide's with the bytes of its vectors; `width` the columns of
    `query.relevant`. `negative.row` is the place of the row that each negative belongs to.
    """
    given, counts = ragged(table["negatives"])
    found = {
        "query.id": table["query_id"].to_numpy(),
        "query.relevant": _padded(*ragged(table["relevant_id"]), width),
        "positive.id": table["positive_id"].to_numpy(),
        "negative.id": given.field("id").to_numpy(),
        "negative.row": np.repeat(np.arange(len(table), dtype=np.int64), counts),
    }
    for name, size in columns.items():
        part, _, inner = OPTIONAL.get(name, "").partition(".")
        if name == "query.relevant_cluster":
            found[name] = _padded(*ragged(table["relevant_cluster"]), width)
        elif name.endswith(".guide"):
            column = given.field("guide") if name == "negative.guide" else table[name.replace(".", "_")]
            found[name] = _vectors(column, size)
        else:
            found[name] = _bits(given.field(inner) if inner else table[part].combine_chunks(), MISSING.get(name))
    return {name: np.array(values, dtype=np.int64) for name, values in found.items()}


def _bits(values: pa.Array, missing: float | None) -> Ints:
    """Ids as they are, -1 for none; numbers as the bits of their float64, so that all travel in one collective."""
    if pa.types.is_integer(values.type):
        ids: Ints = pc.fill_null(values, -1).to_numpy()
        return ids
    return np.ascontiguousarray(pc.fill_null(values, float("nan") if missing is None else missing).to_numpy()).view(
        np.int64
    )


def _padded(values: pa.Array, counts: Ints, width: int) -> Ints:
    """Ids of ragged rows as a matrix [n, width], padded with -1."""
    padded = np.full((len(counts), width), -1, dtype=np.int64)
    padded[np.arange(width) < counts[:, None]] = values.to_numpy()
    return padded


def _vectors(column: pa.Array | pa.ChunkedArray, size: int) -> Ints:
    """Vectors of `size` bytes as words [n, size / 8] of 64 bits; NaN where there is none."""
    nothing = np.full(size // 2, np.nan, np.float16).tobytes()
    return np.frombuffer(b"".join(one or nothing for one in column.to_pylist()), np.int64).reshape(-1, size // 8)


def present(table: pa.Table) -> dict[str, int]:
    """Optional columns that hold anything, with the bytes of a vector where they are a guide's."""
    given, _ = ragged(table["negatives"])
    found = {}
    for name, place in OPTIONAL.items():
        part, _, inner = place.partition(".")
        column = given.field(inner) if inner else table[part]
        if column.null_count < len(column):
            found[name] = 0
    for name in ("query", "positive", "negative"):
        column = given.field("guide") if name == "negative" else table[f"{name}_guide"]
        longest = pc.max(pc.binary_length(column)).as_py() if len(column) else None
        if longest:
            found[f"{name}.guide"] = longest
    return found
