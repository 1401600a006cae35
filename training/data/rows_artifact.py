"""Training rows as an artifact: read and tokenised once, for all epochs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact
from pipeline.storage.counts import Counts
from pipeline.storage.files import join, write_parquet
from training.data.batching import Ints
from training.data.epoch import GROUP_TOKENS
from training.data.relevance import distinct_queries, relevant_table
from training.data.rows import Rows
from training.data.tokenized import Tokenize, optional_columns, token_counts, tokenise_rows

PIECE = 16_384  # rows tokenised at once
PART_TOKENS = 8 << 20  # tokens of a file, unless one piece has more


@dataclass(frozen=True)
class Piece:
    """Some rows, tokenised, and the documents that are relevant to their queries."""

    rows: pa.Table
    relevant: pa.Table


def tokenise_piece(rows: Rows, tokenize: Tokenize, numbers: Ints) -> Piece:
    """Tokenise rows with the given numbers."""
    return Piece(tokenise_rows(rows, tokenize, numbers), relevant_table(rows))


def tokenise_in_pieces(rows: Rows, tokenize: Tokenize) -> Iterator[Piece]:
    """Tokenise rows, `PIECE` at a time."""
    for start in range(0, len(rows), PIECE):
        part = rows.slice(slice(start, start + PIECE))
        yield tokenise_piece(part, tokenize, start + np.arange(len(part)))


def join_pieces(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join pieces until they fill a file."""
    pending: list[Piece] = []
    tokens = 0
    for piece in pieces:
        pending.append(piece)
        tokens += int(token_counts(piece.rows).sum())
        if tokens >= PART_TOKENS:
            yield _joined(pending)
            pending, tokens = [], 0
    if pending:
        yield _joined(pending)


def _joined(pieces: list[Piece]) -> Piece:
    relevant = distinct_queries(pa.concat_tables([piece.relevant for piece in pieces]))
    return Piece(pa.concat_tables([piece.rows for piece in pieces]), relevant)


def write_part(path: str, number: int, piece: Piece) -> Counts:
    """Write one file of rows and one of their queries; count its rows, tokens, sources and optional columns."""
    table, relevant = piece.rows, piece.relevant
    costs = token_counts(table)
    group = max(1, int(GROUP_TOKENS * len(table) / max(1, costs.sum())))
    write_parquet(join(path, "relevant", f"part-{number:06d}.parquet"), relevant)
    write_parquet(join(path, "rows", f"part-{number:06d}.parquet"), table, min(65_536, group))
    tally = Counts()
    if relevant["relevant_cluster"].null_count < len(relevant):
        tally.counts["column query.relevant_cluster"] = 1
    tally.counts.update({f"column {name}": size or 1 for name, size in optional_columns(table).items()})
    tally.counts.update(
        {f"source {entry['values']}": entry["counts"] for entry in pc.value_counts(table["source"]).to_pylist()}
    )
    streams = table["stream"].to_numpy(zero_copy_only=False)
    for name in pc.unique(table["stream"]).to_pylist():
        in_stream = streams == name
        tally.counts[f"rows {name}"] += int(in_stream.sum())
        tally.counts[f"tokens {name}"] += int(costs[in_stream].sum())
        tally.counts[f"taken {name}"] += int(np.ceil(table["share"].to_numpy()[in_stream].sum()))
    return tally


def write_rows(path: str, settings: Mapping[str, Any], inputs: Mapping[str, str], pieces: Iterable[Piece]) -> Artifact:
    """Write rows as an artifact, or return it where it is already there."""
    draft = artifact.begin(path, "rows", dict(settings), inputs, overwrite=True, exclusive=False)
    if isinstance(draft, Artifact):
        return draft
    tallies = [write_part(path, number, piece) for number, piece in enumerate(join_pieces(pieces))]
    return draft.finish(["rows", "relevant"], **row_notes(tallies))


def row_notes(tallies: Iterable[Counts]) -> dict[str, Any]:
    """Notes for the manifest, which epochs read: rows, tokens and rows an epoch by stream, and the optional columns."""
    columns: dict[str, int] = {}
    counts = Counter[str]()
    for tally in tallies:
        for name, count in tally.counts.items():
            if name.startswith("column "):
                columns[name.removeprefix("column ")] = count
            else:
                counts[name] += count
    names = sorted(name.removeprefix("rows ") for name in counts if name.startswith("rows "))
    streams = {name: {what: counts[f"{what} {name}"] for what in ("rows", "tokens", "taken")} for name in names}
    totals = {what: sum(stream[what] for stream in streams.values()) for what in ("rows", "tokens")}
    sources = sorted(name.removeprefix("source ") for name in counts if name.startswith("source "))
    return {**totals, "streams": streams, "sources": sources, "columns": dict(sorted(columns.items()))}
