"""The training rows of a run as an artifact: read and tokenised once, whatever the number of epochs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact
from pipeline.storage.counts import Counts
from pipeline.storage.files import join, write_parquet
from training.data.epoch import GROUP_TOKENS
from training.data.rows import Rows
from training.data.tokenized import Tokenize, cost, present, tokenised

PIECE = 16_384  # rows that are tokenised at once
PART_TOKENS = 8 << 20  # texts of one file, at most, where a piece is not more


def pieces(rows: Rows, tokenize: Tokenize) -> Iterator[pa.Table]:
    """Tokenise rows piece by piece."""
    for start in range(0, len(rows), PIECE):
        part = rows.part(slice(start, start + PIECE))
        yield tokenised(part, tokenize, start + np.arange(len(part)))


def parts(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join tables of rows until they are enough for a file."""
    held: list[pa.Table] = []
    tokens = 0
    for table in tables:
        held.append(table)
        tokens += int(cost(table).sum())
        if tokens >= PART_TOKENS:
            yield pa.concat_tables(held)
            held, tokens = [], 0
    if held:
        yield pa.concat_tables(held)


def write(place: str, number: int, table: pa.Table) -> Counts:
    """Write one file of rows and count what is in it."""
    costs = cost(table)
    group = max(1, int(GROUP_TOKENS * len(table) / max(1, costs.sum())))
    write_parquet(join(place, "rows", f"part-{number:06d}.parquet"), table, min(65_536, group))
    tally = Counts()
    tally.counts.update({f"column {name}": size or 1 for name, size in present(table).items()})
    tally.counts.update(
        {f"source {one['values']}": one["counts"] for one in pc.value_counts(table["source"]).to_pylist()}
    )
    streams = table["stream"].to_numpy(zero_copy_only=False)
    for name in pc.unique(table["stream"]).to_pylist():
        mine = streams == name
        tally.counts[f"rows {name}"] += int(mine.sum())
        tally.counts[f"tokens {name}"] += int(costs[mine].sum())
        tally.counts[f"taken {name}"] += int(np.ceil(table["share"].to_numpy()[mine].sum()))
    return tally


def write_rows(
    place: str, settings: Mapping[str, Any], inputs: Mapping[str, str], tables: Iterable[pa.Table]
) -> Artifact:
    """Write rows as an artifact, or return it where it is already there."""
    draft = artifact.begin(place, "rows", dict(settings), inputs, overwrite=True, exclusive=False)
    if isinstance(draft, Artifact):
        return draft
    tallies = [write(place, number, table) for number, table in enumerate(parts(tables))]
    return draft.finish(["rows"], **notes(tallies))


def notes(tallies: Iterable[Counts]) -> dict[str, Any]:
    """What the epochs of the rows must know: rows, tokens and rows wanted by stream, and the columns that they have."""
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
    whole = {what: sum(one[what] for one in streams.values()) for what in ("rows", "tokens")}
    sources = sorted(name.removeprefix("source ") for name in counts if name.startswith("source "))
    return {**whole, "streams": streams, "sources": sources, "columns": dict(sorted(columns.items()))}
