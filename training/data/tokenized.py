"""Training rows as an Arrow table of token ids and numbers: epochs are composed of them, steps read them."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encoder.tokenizer import Tokens
from pipeline.text.normalize import stable_id
from training.data.batching import Ints, select_negatives
from training.data.rows import Rows

Tokenize = Callable[[list[str], Literal["query", "document"]], Tokens]

TOKEN_IDS = pa.list_(pa.int32())
NEGATIVE = pa.struct(
    [
        ("id", pa.int64()),
        ("cluster", pa.int64()),
        ("score", pa.float64()),
        ("teacher", pa.float64()),
        ("index", pa.int32()),  # among all negatives of the row
        ("guide", pa.binary()),
        ("tokens", TOKEN_IDS),
    ]
)
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # number among the training rows of a run
        ("stream", pa.string()),  # rows of two streams never share a batch
        ("source", pa.string()),
        ("table", pa.string()),  # the table that the texts were read from, and the row of it
        ("table_row", pa.int64()),
        ("share", pa.float64()),  # how often an epoch trains on the row
        ("query_id", pa.int64()),
        ("positive_id", pa.int64()),
        ("positive_cluster", pa.int64()),
        ("label", pa.int64()),
        ("score", pa.float64()),
        ("weight", pa.float64()),
        ("teacher", pa.float64()),
        ("query_guide", pa.binary()),  # float16 vectors
        ("positive_guide", pa.binary()),
        ("anchor", TOKEN_IDS),
        ("positive", TOKEN_IDS),
        ("negatives", pa.list_(NEGATIVE)),
    ]
)
# columns that only some runs have, by the name under which they are gathered
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

SOURCE = "query.source"  # gathered where every batch holds rows of one source alone

MISSING = {"query.weight": 1.0, "negative.score": 0.0}  # defaults; elsewhere NaN


def tokenise_rows(rows: Rows, tokenize: Tokenize, numbers: Ints | None = None) -> pa.Table:
    """Tokenise rows [N] into a table of `SCHEMA`; their numbers count from 0 where none are given.

    `tokenize` takes texts and a role.
    """
    n = len(rows)
    counts = np.array([len(row) for row in rows.negatives], dtype=np.int64)
    guide = rows.guide.to_binary() if rows.guide else {}
    columns = {
        "row": np.arange(n) if numbers is None else numbers,
        "stream": pa.array(rows.stream or [""] * n, pa.string()),
        "source": pa.array(rows.source or [""] * n, pa.string()),
        "table": pa.array(rows.table or [""] * n, pa.string()),
        "table_row": np.arange(n) if rows.table_row is None else rows.table_row,
        "share": np.ones(n) if rows.share is None else rows.share,
        "query_id": rows.query_id,
        "positive_id": rows.positive_id,
        "positive_cluster": rows.positive_cluster,
        **{name: getattr(rows, name) for name in ("label", "score", "weight", "teacher")},
        "query_guide": guide.get("query"),
        "positive_guide": guide.get("positive"),
        "anchor": _tokenlists_of(tokenize(rows.anchors, "query")),
        "positive": _tokenlists_of(tokenize(rows.positives, "document")),
        "negatives": lists_of(_negatives(rows, tokenize, counts, guide.get("negative")), counts),
    }
    return pa.table([_column(columns[field.name], field.type, n) for field in SCHEMA], schema=SCHEMA)


def _negatives(rows: Rows, tokenize: Tokenize, counts: Ints, guide: pa.Array | None) -> pa.Array:
    total = int(counts.sum())

    def flat(values: list[Ints] | list[npt.NDArray[np.float64]] | None) -> npt.NDArray[np.generic] | None:
        return None if values is None else np.concatenate(values)

    columns = {
        "id": flat(rows.negative_id) if total else None,
        "cluster": flat(rows.negative_cluster) if total else None,
        "score": flat(rows.negative_score) if total else None,
        "teacher": flat(rows.negative_teacher) if total else None,
        "index": np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts),
        "guide": guide,
        "tokens": _tokenlists_of(tokenize([text for row in rows.negatives for text in row], "document")),
    }
    return pa.StructArray.from_arrays(
        [_column(columns[field.name], field.type, total) for field in NEGATIVE], fields=list(NEGATIVE)
    )


def _column(values: pa.Array | npt.NDArray[np.generic] | None, kind: pa.DataType, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, kind)
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _tokenlists_of(tokens: Tokens) -> pa.Array:
    return pa.array(tokens, TOKEN_IDS)


def lists_of(values: pa.Array, counts: Ints) -> pa.Array:
    """Lay values end to end in lists of the given lengths."""
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), values)


def ragged(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """Values of a column of lists, end to end, and how many each row has."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.flatten(), pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int64)


def sample_negatives(table: pa.Table, max_negatives: int | None, seed: int, epoch: int | None) -> pa.Table:
    """Keep `max_negatives` of the negatives of each row: other ones each epoch, or the first where `epoch` is None."""
    negatives, counts = ragged(table["negatives"])
    if max_negatives is None or not len(counts) or int(counts.max()) <= max_negatives:
        return table
    if epoch is None:
        mask = negatives.field("index").to_numpy() < max_negatives
    else:
        mask = select_negatives(table["row"].to_numpy(), counts, max_negatives, seed, epoch)
    sampled = lists_of(negatives.take(pa.array(np.flatnonzero(mask))), np.minimum(counts, max_negatives))
    return table.set_column(table.column_names.index("negatives"), "negatives", sampled)


def token_counts(table: pa.Table) -> Ints:
    """Tokens [N] of all texts of each row."""
    negatives, counts = ragged(table["negatives"])
    pair_tokens: Ints = sum(
        pc.list_value_length(table[name]).to_numpy().astype(np.int64) for name in ("anchor", "positive")
    )
    lengths = pc.list_value_length(negatives.field("tokens")).to_numpy().astype(np.int64)
    total = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.cumsum(counts)
    totals: Ints = pair_tokens + total[ends] - total[ends - counts]
    return totals


def token_columns(table: pa.Table) -> dict[str, Tokens]:
    """Token ids of the rows' queries, positives and negatives, in order of rows."""
    negatives, _ = ragged(table["negatives"])
    return {
        "query": _splitlists_of(*ragged(table["anchor"])),
        "positive": _splitlists_of(*ragged(table["positive"])),
        "negative": _splitlists_of(
            negatives.field("tokens").flatten(), pc.list_value_length(negatives.field("tokens")).to_numpy()
        ),
    }


def _splitlists_of(values: pa.Array, counts: Ints) -> Tokens:
    flat, ends = values.to_numpy().tolist(), np.cumsum(counts).tolist()
    return [flat[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def id_columns(table: pa.Table, columns: dict[str, int], width: int) -> dict[str, Ints]:
    """Columns of int64 that are gathered with the embeddings of rows of an epoch, by name; floats as bits of float64.

    `columns` are the optional ones that the run has, those of a guide with the bytes of its vectors; `width` is that of
    `query.relevant`. `negative.row` is the index of the row that each negative belongs to.
    """
    negatives, counts = ragged(table["negatives"])
    columns_by_name = {
        "query.id": table["query_id"].to_numpy(),
        "query.relevant": _padded(*ragged(table["relevant_id"]), width),
        "positive.id": table["positive_id"].to_numpy(),
        "negative.id": negatives.field("id").to_numpy(),
        "negative.row": np.repeat(np.arange(len(table), dtype=np.int64), counts),
    }
    for name, size in columns.items():
        part, _, inner = OPTIONAL.get(name, "").partition(".")
        if name == "query.relevant_cluster":
            columns_by_name[name] = _padded(*ragged(table["relevant_cluster"]), width)
        elif name == SOURCE:
            columns_by_name[name] = _source_ids(table["source"])
        elif name.endswith(".guide"):
            column = negatives.field("guide") if name == "negative.guide" else table[name.replace(".", "_")]
            columns_by_name[name] = _vectors(column, size)
        else:
            columns_by_name[name] = _as_bits(
                negatives.field(inner) if inner else table[part].combine_chunks(), MISSING.get(name)
            )
    return {name: np.array(values, dtype=np.int64) for name, values in columns_by_name.items()}


def _source_ids(sources: pa.ChunkedArray) -> Ints:
    """Id of the source [n] of each row."""
    names = sources.combine_chunks().dictionary_encode()
    ids = np.array([stable_id(name) for name in names.dictionary.to_pylist()], dtype=np.int64)
    of_rows: Ints = ids[names.indices.to_numpy()]
    return of_rows


def _as_bits(values: pa.Array, missing: float | None) -> Ints:
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
    nan = np.full(size // 2, np.nan, np.float16).tobytes()
    return np.frombuffer(b"".join(vector or nan for vector in column.to_pylist()), np.int64).reshape(-1, size // 8)


def optional_columns(table: pa.Table) -> dict[str, int]:
    """Optional columns that hold a value, with the bytes of a vector for those of a guide, else 0."""
    negatives, _ = ragged(table["negatives"])
    sizes = {}
    for name, column_name in OPTIONAL.items():
        part, _, inner = column_name.partition(".")
        if part not in table.column_names:  # what is relevant to a query stands beside the rows
            continue
        column = negatives.field(inner) if inner else table[part]
        if column.null_count < len(column):
            sizes[name] = 0
    of_source = pc.and_(pc.equal(table["stream"], table["source"]), pc.not_equal(table["source"], ""))
    if len(table) and pc.all(of_source).as_py():
        sizes[SOURCE] = 0
    for name in ("query", "positive", "negative"):
        column = negatives.field("guide") if name == "negative" else table[f"{name}_guide"]
        longest = pc.max(pc.binary_length(column)).as_py() if len(column) else None
        if longest:
            sizes[f"{name}.guide"] = longest
    return sizes
