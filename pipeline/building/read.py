"""The first task of a build: a block of a source into clean records with text keys, staged by kind."""

from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.cleaning import CleanConfig
from pipeline.sources.reading.record import ROWS, Block, Parsed, Record, SourceConfig
from pipeline.storage.counts import Counts
from pipeline.storage.shuffle import Shuffle
from pipeline.text.columns import keys, normalised, shortened

BUCKETED_BY = {"documents": "id", "queries": "id", "judgments": "query_id", "labelled": "left"}
_TEXTS = {"documents": ("text",), "queries": ("text",), "labelled": ("left", "right"), "judgments": ()}
_SIDE_TEXTS = ("title", "body")
_STAGED_BYTES = 64 << 20  # records in memory before they are staged


@dataclass(frozen=True)
class TextLimits:
    """Fewest characters of a text, most characters after which it is cut, and the other rules of cleaning."""

    min_chars: int
    max_chars: int
    cleaning: CleanConfig = field(default_factory=CleanConfig)


def stage(source: SourceConfig, block: Block, limits: TextLimits, shuffle: Shuffle, part: str) -> Counts:
    """Read one block, clean its records and stage them; piece by piece, so that memory does not follow the block."""
    total, number = Counts(), count()
    waiting: dict[str, list[pa.Table]] = {}
    for parsed in source.parse(block):
        for kind, records in parsed.kinds.items():
            table = clean(kind, records, limits, parsed)
            parsed.tally.counts[kind] += table.num_rows
            waiting.setdefault(kind, []).append(table)
        total.add(parsed.tally)
        if sum(table.nbytes for tables in waiting.values() for table in tables) > _STAGED_BYTES:
            _write(waiting, shuffle, f"{part}-{next(number):05d}")
    _write(waiting, shuffle, f"{part}-{next(number):05d}")
    return total


def _write(waiting: dict[str, list[pa.Table]], shuffle: Shuffle, part: str) -> None:
    for kind, tables in waiting.items():
        shuffle.write(kind, part, pa.concat_tables(tables), by=BUCKETED_BY[kind])
    waiting.clear()


def clean(kind: str, records: list[Record] | pa.Table, limits: TextLimits, parsed: Parsed) -> pa.Table:
    """Table (`SCHEMAS[kind]`) of the records with usable texts, in normal form and with the key of their text."""
    rows = records if isinstance(records, pa.Table) else pa.Table.from_pylist(records, schema=ROWS[kind])
    for name in _SIDE_TEXTS:
        if name in rows.column_names:
            text = shortened(
                limits.cleaning.without_boilerplate(normalised(rows[name]), parsed.tally), limits.max_chars
            )
            rows = rows.set_column(rows.schema.get_field_index(name), name, text)
    for name in _TEXTS[kind]:
        rows = _clean(kind, name, rows, limits, parsed.tally)
    rows = limits.cleaning.apply(rows, _TEXTS[kind], parsed.tally)
    if "text" in rows.column_names and (rows["key"].null_count or limits.cleaning.max_tokens):
        rows = rows.set_column(rows.schema.get_field_index("key"), "key", keys(rows["text"]))
    return rows.drop_columns("line")


def _clean(kind: str, name: str, rows: pa.Table, limits: TextLimits, tally: Counts) -> pa.Table:
    """Rows with column `name` in normal form, without those where it is empty or too short: they are counted."""
    texts = limits.cleaning.without_boilerplate(normalised(rows[name]), tally)
    length = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(length < limits.min_chars).tolist():
        reason = "too_short" if length[row] else "empty_text"
        label = rows["id"][row].as_py() if "id" in rows.column_names else name
        tally.offend(rows["line"][row].as_py(), reason, f"{kind}: {label} has {length[row]} characters")
    stays = length >= limits.min_chars
    tally.counts["shortened"] += int((length > limits.max_chars).sum())
    texts = shortened(texts, limits.max_chars)
    if name == "text" and not rows["key"].null_count and not pc.all(pc.equal(rows[name], texts)).as_py():
        rows = rows.set_column(rows.schema.get_field_index("key"), "key", pa.nulls(len(texts), pa.binary(16)))
    rows = rows.set_column(rows.schema.get_field_index(name), name, texts)
    return rows if stays.all() else rows.filter(pa.array(stays))
