"""The first task of a build: a block of a source into clean records with text keys, staged by kind.

An input row may give several records: a query, its answers, and judgments that join them. A text that cannot be used
takes its judgments with it, and a row of which no judgment is left is not used at all, so that no half of it stays.
"""

from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.cleaning import CleanConfig
from pipeline.sources.reading.record import ROWS, Block, Parsed, Record, SourceConfig
from pipeline.storage.counts import Counts
from pipeline.storage.shuffle import Shuffle
from pipeline.text.columns import key_column, key_prefixes, normalise_column, shorten_column

BUCKETED_BY = {"documents": "id", "queries": "id", "judgments": "query_id", "labelled": "pair", "negatives": "query_id"}
_TEXTS = {"documents": ("text",), "queries": ("text",), "labelled": ("left", "right")}
_SIDE_TEXTS = ("title", "body", "passage")
_ID_COLUMNS = {"queries": "query_id", "documents": "doc_id"}  # by which judgments refer to records
_WORD_LETTERS = (  # first and last of kana, ideographs, Hangul, compatible ideographs, further ideographs
    ("\u3040", "\u30ff"),
    ("\u3400", "\u9fff"),
    ("\uac00", "\ud7a3"),
    ("\uf900", "\ufaff"),
    ("\U00020000", "\U000323af"),
)
STAGED_BYTES = 64 << 20  # records in memory before they are staged


@dataclass(frozen=True)
class TextLimits:
    """Fewest characters of a text, most characters after which it is cut, and the other rules of cleaning."""

    min_chars: int
    max_chars: int
    cleaning: CleanConfig = field(default_factory=CleanConfig)


class UnusableText(NamedTuple):
    """A record whose text cannot be used: its kind and id, the order and the line of its row, and why."""

    kind: str
    id: str
    order: int
    line: int
    reason: str
    detail: str


def stage(source: SourceConfig, block: Block, limits: TextLimits, shuffle: Shuffle, part: str) -> Counts:
    """Read one block, clean its records and stage them; piece by piece, so that memory does not follow the block."""
    total, number = Counts(), count()
    waiting: dict[str, list[pa.Table]] = {}
    for parsed in source.parse(block):
        for kind, table in clean(parsed, limits).items():
            parsed.tally.counts[kind] += table.num_rows
            waiting.setdefault(kind, []).append(table)
        total.add(parsed.tally)
        if sum(table.nbytes for tables in waiting.values() for table in tables) > STAGED_BYTES:
            _write(waiting, shuffle, f"{part}-{next(number):05d}")
    _write(waiting, shuffle, f"{part}-{next(number):05d}")
    return total


def _write(waiting: dict[str, list[pa.Table]], shuffle: Shuffle, part: str) -> None:
    for kind, tables in waiting.items():
        shuffle.write(kind, part, pa.concat_tables(tables), by=BUCKETED_BY[kind])
    waiting.clear()


def clean(parsed: Parsed, limits: TextLimits) -> dict[str, pa.Table]:
    """Tables (`SCHEMAS`) of the records by kind, with texts in normal form and their keys; whole rows or none.

    Rows and records that are left out are counted in `parsed.tally`.
    """
    unusable: list[UnusableText] = []
    tables = {
        kind: _clean_kind(kind, records, limits, parsed.tally, unusable) for kind, records in parsed.kinds.items()
    }
    if unusable:
        tables = _without_unusable_rows(tables, unusable, parsed.tally)
    return {kind: table.drop_columns("line") for kind, table in tables.items()}


def _clean_kind(
    kind: str, records: list[Record] | pa.Table, limits: TextLimits, tally: Counts, unusable: list[UnusableText]
) -> pa.Table:
    """Records of one kind (`ROWS[kind]`) with usable texts; the others are appended to `unusable`."""
    rows = records if isinstance(records, pa.Table) else pa.Table.from_pylist(records, schema=ROWS[kind])
    for name in _SIDE_TEXTS:
        if name in rows.column_names:
            texts = limits.cleaning.without_boilerplate(normalise_column(rows[name]), tally)
            rows = _set(rows, name, shorten_column(texts, limits.max_chars))
    names = _TEXTS.get(kind, ())
    for name in names:
        rows = _clean_texts(kind, name, rows, limits, tally, unusable)
    rows = limits.cleaning.cut_to_tokens(rows, names, tally)
    if limits.cleaning.languages and names:
        texts = zip(*(rows[name].to_pylist() for name in names), strict=True)
        others = limits.cleaning.other_languages(texts).items()
        rows = _leave_out(kind, rows, {row: ("other_language", detail) for row, detail in others}, unusable)
    if kind == "labelled":
        left, right = (key_prefixes(key_column(rows[side])) for side in ("left", "right"))
        rows = _set(rows, "pair", pa.array(left + right))
    if "text" in rows.column_names and (rows["key"].null_count or limits.cleaning.max_tokens):
        rows = _set(rows, "key", key_column(rows["text"]))
    return rows


def _clean_texts(
    kind: str, name: str, rows: pa.Table, limits: TextLimits, tally: Counts, unusable: list[UnusableText]
) -> pa.Table:
    """Rows with column `name` in normal form, without those where it is empty or too short."""
    texts = limits.cleaning.without_boilerplate(normalise_column(rows[name]), tally)
    length = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
    tally.counts["shortened"] += int((length > limits.max_chars).sum())
    texts = shorten_column(texts, limits.max_chars)
    if name == "text" and not rows["key"].null_count and not pc.all(pc.equal(rows[name], texts)).as_py():
        rows = _set(rows, "key", pa.nulls(len(texts), pa.binary(16)))
    short = [row for row in np.flatnonzero(length < limits.min_chars).tolist() if not _is_word(texts[row].as_py())]
    labels = rows["id" if "id" in rows.column_names else "line"]
    reasons = {
        row: (
            "too_short" if length[row] else "empty_text",
            f"{kind}: {labels[row].as_py() if name == 'text' else name} has {length[row]} characters",
        )
        for row in short
    }
    return _leave_out(kind, _set(rows, name, texts), reasons, unusable)


def _is_word(text: str) -> bool:
    """Whether a text of one character is a word all the same, as in Chinese, Japanese and Korean."""
    return any(first <= letter <= last for letter in text for first, last in _WORD_LETTERS)


def _leave_out(
    kind: str, rows: pa.Table, reasons: dict[int, tuple[str, str]], unusable: list[UnusableText]
) -> pa.Table:
    """Rows without those at the indices that have a reason and a detail, which are appended to `unusable`."""
    if not reasons:
        return rows
    stays = np.ones(rows.num_rows, dtype=bool)
    stays[list(reasons)] = False
    for row, reason in zip(rows.filter(pa.array(~stays)).to_pylist(), reasons.values(), strict=True):
        unusable.append(UnusableText(kind, row.get("id", ""), row["order"], row["line"], *reason))
    return rows.filter(pa.array(stays))


def _without_unusable_rows(
    tables: dict[str, pa.Table], unusable: list[UnusableText], tally: Counts
) -> dict[str, pa.Table]:
    """Tables without judgments of unusable texts, and without what is left of input rows that thereby lose them all."""
    orders = {text.order for text in unusable}
    missing = {(text.kind, text.order, text.id) for text in unusable}
    affected = {kind: table.filter(_in(table["order"], orders)).to_pylist() for kind, table in tables.items()}
    judged = {row["order"] for row in affected.get("judgments", [])}
    used = {row["order"] for row in affected.get("judgments", []) if not _refers_to(row, missing)}
    used |= {row["order"] for kind in _TEXTS for row in affected.get(kind, []) if row["order"] not in judged}
    unused = orders - used
    for text in unusable:
        if text.order in used:
            tally.drop_at(text.line, text.reason, text.detail)
        elif text.order in unused:
            tally.offend(text.line, text.reason, text.detail)
            unused.remove(text.order)  # a row is counted once, by the first reason
    return {kind: _without(kind, table, orders, orders - used, missing) for kind, table in tables.items()}


def _without(
    kind: str, table: pa.Table, orders: set[int], unused: set[int], missing: set[tuple[str, int, str]]
) -> pa.Table:
    """Records without those of unused input rows and without judgments that refer to missing texts."""
    index = np.flatnonzero(_in(table["order"], orders).to_numpy())
    rows = table.take(pa.array(index)).to_pylist()
    stays = np.ones(table.num_rows, dtype=bool)
    stays[index] = [row["order"] not in unused and (kind in _TEXTS or not _refers_to(row, missing)) for row in rows]
    return table.filter(pa.array(stays))


def _refers_to(row: Record, missing: set[tuple[str, int, str]]) -> bool:
    """Whether a judgment is of a query or document that its own input row states with an unusable text."""
    return any((kind, row["order"], row[column]) in missing for kind, column in _ID_COLUMNS.items())


def _in(orders: pa.ChunkedArray, chosen: set[int]) -> pa.ChunkedArray:
    return pc.is_in(orders, pa.array(sorted(chosen), pa.int64()))


def _set(rows: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, column)
