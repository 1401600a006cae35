"""Turns batches of rows into records a column at a time, with the same result as `mapping` row by row.

Only texts, numbers and lists of texts are read here. Rows that lack what their kind needs, and batches of any other
kind of column, are left to `mapping`, which says in words what is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.reading.mapping import Mapping
from pipeline.sources.reading.record import ROWS, Parsed
from pipeline.sources.reading.roles import NEGATIVE_ROLES, ROLES, numbered
from pipeline.sources.reading.values import SHORT, UnusableValue, category_path, holds_several, tags
from pipeline.storage.counts import Counts
from pipeline.text.columns import (
    Mask,
    as_array,
    html_to_text_column,
    ids_from_keys,
    key_column,
    normalise_column,
    strip_column,
    without_brackets,
)

Numbers = npt.NDArray[np.int64]
_NEEDED = {
    "query": ("text",),
    "judgment": ("query_id", "doc_id", "relevance"),
    "rated": ("query", "doc_id", "relevance"),
    "pair": ("anchor", "positive"),
    "qa": ("anchor", "positive"),
    "labelled": ("left", "right", "score"),
}

_TEXTS = ("title", "text", "body", "query", "anchor", "positive", "left", "right")  # roles of prose


class NotPlain(Exception):
    """The columns of a batch are of kinds that only the row path reads."""


@dataclass(frozen=True)
class Batch:
    """Rows [N] of named fields, their lines in the block and their order."""

    mapping: Mapping
    rows: pa.Table
    lines: Numbers
    orders: Numbers
    label: str
    prefix: str
    tally: Counts = field(default_factory=Counts)
    columns: dict[str, pa.Array] = field(default_factory=dict)

    def take(self) -> tuple[Parsed, Mask] | None:
        """Records of the rows, and which rows [N] they leave out; None for a batch that is not plain."""
        parsed = Parsed()
        try:
            self._check_plain()
            odd = self._odd()
            chosen = self._chosen(np.flatnonzero(~odd)) if odd.any() else self
            for kind, columns in _MAKERS[self.mapping.kind](chosen).items():
                parsed.kinds[kind] = _table(kind, columns)
        except NotPlain:
            return None
        parsed.tally = chosen.tally
        parsed.tally.rows = parsed.tally.counts["rows"] = len(chosen.lines)
        parsed.tally.unread.update(name for name in self.rows.column_names if not self.mapping.reads(name))
        return parsed, odd

    def value(self, role: str) -> pa.Array:
        """Return values [N] of a role: for each row, of the first of its fields that says something."""
        names = [name for name in self.mapping.names(role) if name in self.rows.column_names]
        columns = [column for name in names if not pa.types.is_null((column := self._column(name)).type)]
        if len({column.type for column in columns}) > 1:
            raise NotPlain
        return pc.coalesce(*columns) if columns else pa.nulls(len(self.lines), pa.string())

    def text(self, role: str) -> pa.Array:
        """Return texts [N] of a role, null where a row has none."""
        values = self.value(role)
        if not (pa.types.is_string(values.type) or pa.types.is_integer(values.type)):
            raise NotPlain
        return values.cast(pa.string())

    def prose(self, role: str) -> pa.Array:
        """Return texts [N] of a role, without markup where they are HTML; empty where a row has none."""
        return self.plain(pc.fill_null(self.text(role), ""), self.lines)

    def plain(self, texts: pa.Array, lines: Numbers) -> pa.Array:
        """Return texts [M], which stand in some lines [M], without markup where they are HTML."""
        if self.mapping.html is False or (self.mapping.html is None and self.mapping.kind != "product"):
            return texts
        results = html_to_text_column(texts, self.mapping.without_markup)
        for row in np.flatnonzero(pc.not_equal(texts, results).to_numpy(zero_copy_only=False)).tolist():
            self.tally.note_change(int(lines[row]), "html_removed", texts[row].as_py(), results[row].as_py())
        return results

    def each(self, role: str, rule: Callable[[Any], Any], dtype: pa.DataType) -> pa.Array:
        """Apply a rule to the values [N] of a role, once for each distinct value; null where it raises."""
        values = self.value(role)
        if pa.types.is_list(values.type):
            raise NotPlain
        coded = values.dictionary_encode()
        results = [None if value is None else _tried(rule, value) for value in coded.dictionary.to_pylist()]
        return pa.array(results, dtype).take(coded.indices)

    def grades(self) -> pa.Array:
        """Return relevance [N], null where a row has none that can be read."""
        return self.each("relevance", self.mapping.grade, pa.int32())

    def scores(self) -> pa.Array:
        """Return scores [N] of labelled pairs, null where a row has none that can be read."""
        return self.each("score", self.mapping.score, pa.float32())

    def splits(self) -> pa.Array:
        """Return the splits [N] that rows name, null where they name none or one that is not known."""
        return self.each("split", self.mapping.split_of, pa.string())

    def origin(self) -> dict[str, Any]:
        """Return the columns that say where the rows come from, and into which split they are forced."""
        forced = self.splits() if self._names_splits else self.mapping.split
        return {"source": self.label, "order": self.orders, "line": self.lines, "split": forced}

    def group(self) -> pa.Array | None:
        """Return groups [N] that the rows name, None where the kind has no such field."""
        groups = normalise_column(self.text("group")) if self.mapping.names("group") else None
        return groups if groups is None else pc.if_else(pc.equal(groups, ""), None, groups)

    def ids(self, explicit: pa.Array, mark: str, texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        """Ids [N] as given, elsewhere derived from texts in normal form; and the keys of the texts, where computed."""
        explicit, text_keys = strip_column(pc.fill_null(explicit, "")), None
        none = pc.equal(explicit, "")
        if pc.any(none).as_py():
            text_keys = key_column(texts)
            explicit = pc.if_else(none, ids_from_keys(text_keys, mark), explicit)
        return self.prefixed(explicit), text_keys

    def prefixed(self, ids: pa.Array) -> pa.Array:
        """Put the prefix of the source before ids [N]."""
        return pc.binary_join_element_wise(self.prefix, ids, "")

    @property
    def _names_splits(self) -> bool:
        return self.mapping.split is None and "split" in self.mapping.fields

    def _column(self, name: str) -> pa.Array:
        """A field's values [N], null where they say nothing; raises NotPlain for what is no text, number or list."""
        if name not in self.columns:
            self.columns[name] = _without_nulls(_plain(self.rows[name]), self.mapping.nulls)
        return self.columns[name]

    def _check_plain(self) -> None:
        """Leave what is inside objects and texts, required, or a given negative, label or score to the row path."""
        mapping, kind = self.mapping, self.mapping.kind
        if mapping.required or (mapping.decode and set(mapping.decode) & set(self.rows.column_names)):
            raise NotPlain
        if any("." in name and name not in self.rows.column_names for name in mapping.fields.values() if name):
            raise NotPlain
        if kind in ("pair", "qa"):
            names = {name for role in NEGATIVE_ROLES for name in mapping.names(role)}
            fields = [name for name in self.rows.column_names if name in names or numbered(name) in names]
            if any(self.rows[name].null_count < len(self.rows) for name in fields):
                raise NotPlain

    def _odd(self) -> Mask:
        """Which rows [N] lack what their kind needs, or hold a label without a meaning."""
        kind = self.mapping.kind
        masks = [self.value(role).is_valid() for role in _NEEDED.get(kind, ())]
        masks = masks or [pc.or_(self.value("title").is_valid(), self.value("text").is_valid())]
        if "relevance" in ROLES[kind]:
            masks.append(pc.or_(self.grades().is_valid(), self.value("relevance").is_null()))
        if kind == "labelled":
            masks.append(self.scores().is_valid())
        if self._names_splits:
            masks.append(pc.or_(self.splits().is_valid(), self._without_split()))
        if self.mapping.decode is None:
            masks += [without_brackets(self.value(role)) for role in _TEXTS if role in ROLES[kind]]
        odd: Mask = ~np.all([mask.to_numpy(zero_copy_only=False) for mask in masks], axis=0)
        return odd

    def _without_split(self) -> pa.Array:
        """Which rows [N] name no split, or one that is assigned by hash."""
        splits = self.each("split", lambda value: self.mapping.split_of(value) or "hash", pa.string())
        return pc.or_(self.value("split").is_null(), pc.fill_null(pc.equal(splits, "hash"), False))

    def _chosen(self, rows: Numbers) -> "Batch":
        selected = self.rows.take(pa.array(rows))
        return Batch(self.mapping, selected, self.lines[rows], self.orders[rows], self.label, self.prefix)


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array of texts, numbers or lists of texts; raises NotPlain for anything else."""
    array, kind = as_array(column), column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return array.cast(pa.string())
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_string(kind.value_type):
        return array.cast(pa.list_(pa.string()))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        return array
    raise NotPlain


def _without_nulls(values: pa.Array, nulls: frozenset[str]) -> pa.Array:
    """Values [N] of a plain column with null for NaN, blank texts, null values and lists of nothing.

    Raises NotPlain for lists that hold such values beside others.
    """
    if pa.types.is_string(values.type):
        missing = _missing_texts(values, nulls)
    elif pa.types.is_list(values.type):
        inner = values.flatten()
        if inner.null_count or _missing_texts(inner, nulls).any():
            raise NotPlain
        missing = pc.fill_null(pc.equal(pc.list_value_length(values), 0), False).to_numpy(zero_copy_only=False)
    elif pa.types.is_floating(values.type):
        missing = pc.fill_null(pc.is_nan(values), False).to_numpy(zero_copy_only=False)
    else:
        return values
    return pc.if_else(pa.array(missing), None, values) if missing.any() else values


def _missing_texts(texts: pa.Array, nulls: frozenset[str]) -> Mask:
    """Which texts [N] are blank or a null value."""
    missing = np.zeros(len(texts), dtype=bool)
    size = pc.fill_null(pc.binary_length(texts), SHORT + 1).to_numpy()
    short = np.flatnonzero(size <= SHORT)
    if len(short):
        trimmed = pc.utf8_trim_whitespace(texts.take(pa.array(short)))
        nothing = pc.is_in(trimmed, pa.array(["", *nulls]))
        missing[short] = nothing.to_numpy(zero_copy_only=False)
    blank = pc.fill_null(pc.starts_with(texts, " "), False).to_numpy(zero_copy_only=False) & (size > SHORT)
    for row in np.flatnonzero(blank).tolist():
        missing[row] = texts[row].as_py().isspace()
    return missing


def _tried(rule: Callable[[Any], Any], value: Any) -> Any:
    try:
        return rule(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _table(kind: str, columns: dict[str, Any]) -> pa.Table:
    """Rows (`ROWS[kind]`) of columns that are arrays, one value for all rows, or missing."""
    arrays = []
    for column in ROWS[kind]:
        value = columns.get(column.name)
        if isinstance(value, np.ndarray):
            value = pa.array(value)
        if not isinstance(value, pa.Array):
            value = pa.repeat(pa.scalar(value, column.type), len(columns["order"]))
        arrays.append(value.cast(column.type))
    return pa.table(arrays, schema=ROWS[kind])


Tables = dict[str, dict[str, Any]]
_TAGS = ROWS["documents"].field("tags").type


def _query(batch: Batch) -> Tables:
    text = normalise_column(batch.prose("text"))
    ids, key = batch.ids(batch.text("id"), "q", text)
    columns = {"id": ids, "key": key, "text": text, "body": batch.prose("body"), "group": batch.group()}
    return {"queries": columns | batch.origin()}


def _judgment(batch: Batch) -> Tables:
    return {
        "judgments": _judgment_columns(
            batch, *(batch.prefixed(strip_column(batch.text(role))) for role in ("query_id", "doc_id"))
        )
    }


def _judgment_columns(batch: Batch, query: pa.Array, document: pa.Array) -> dict[str, Any]:
    grade = batch.grades()
    reason = pc.binary_join_element_wise("judged", grade.cast(pa.string()), " ")
    return {"query_id": query, "doc_id": document, "relevance": grade, "reason": reason} | batch.origin()


def _rated(batch: Batch) -> Tables:
    text = normalise_column(batch.prose("query"))
    ids, key = batch.ids(batch.text("id"), "q", text)
    query = {"id": ids, "key": key, "mention": True, "text": text, "group": batch.group()}
    judgments = _judgment_columns(batch, ids, batch.prefixed(strip_column(batch.text("doc_id"))))
    return {"queries": query | batch.origin(), "judgments": judgments}


def _pair(batch: Batch) -> Tables:
    origin = batch.origin()
    anchor = normalise_column(batch.prose("anchor"))
    ids, key = batch.ids(batch.text("id"), "q", anchor)
    query = {"id": ids, "key": key, "mention": True, "text": anchor, "group": batch.group()}
    positives, explicit, owner = _positives(batch)
    place_of = {name: _take_rows(value, owner) for name, value in origin.items()}
    documents, key = batch.ids(explicit, "d", positives)
    document = {"id": documents, "key": key, "mention": True, "title": "", "text": positives}
    grades = batch.grades()
    relevance = _take_rows(pc.fill_null(grades, 1), owner)
    stated = True if batch.mapping.kind == "qa" else _take_rows(grades.is_null(), owner)  # a graded pair is a judgment
    judgments = {"query_id": _take_rows(ids, owner), "doc_id": documents, "relevance": relevance}
    judgments |= {"reason": f"{batch.mapping.kind} of {batch.label}", "stated": stated}
    none = pa.array([[]], _TAGS).take(pa.array(np.zeros(len(positives), np.int8)))
    return {
        "queries": query | origin,
        "documents": document | {"tags": none} | place_of,
        "judgments": judgments | place_of,
    }


def _positives(batch: Batch) -> tuple[pa.Array, pa.Array, Numbers | None]:
    """Positives [M] in normal form, their given ids, and the row of each; None for one a row."""
    values = batch.value("positive")
    explicit = batch.text("doc_id")
    if not pa.types.is_list(values.type):
        return normalise_column(batch.prose("positive")), explicit, None
    texts, owner = pc.list_flatten(values), pc.list_parent_indices(values).to_numpy()
    alone = pc.equal(pc.list_value_length(values), 1)
    texts = batch.plain(texts, batch.lines[owner])
    return normalise_column(texts), pc.if_else(alone, explicit, None).take(pa.array(owner)), owner


def _take_rows(value: Any, rows: Numbers | None) -> Any:
    """Those of a column's values that stand at the rows."""
    if rows is None or not isinstance(value, np.ndarray | pa.Array):
        return value
    return value[rows] if isinstance(value, np.ndarray) else value.take(pa.array(rows))


def _document(batch: Batch) -> Tables:
    """Documents of titles, texts, categories and tags; a template or attributes are for the row."""
    mapping = batch.mapping
    attributed = mapping.kind == "product" and (
        mapping.attributes or any(name in batch.rows.column_names for name in mapping.names("attributes"))
    )
    if mapping.template is not None or attributed:
        raise NotPlain
    title, body = batch.prose("title"), batch.prose("text")
    ends = [strip_column(title), strip_column(body)]
    both = pc.and_(pc.not_equal(ends[0], ""), pc.not_equal(ends[1], ""))
    text = normalise_column(pc.binary_join_element_wise(ends[0], pc.if_else(both, ". ", ""), ends[1], ""))
    ids, key = batch.ids(batch.text("id"), "d", text)
    columns = {"id": ids, "key": key, "title": title, "text": text, "body": body, "group": batch.group()}
    columns["category"] = _optional(batch, "category", pa.string())
    columns["tags"] = pc.coalesce(_optional(batch, "tags", _TAGS), pa.scalar([], _TAGS))
    return {"documents": columns | {"product": mapping.kind == "product"} | batch.origin()}


def _optional(batch: Batch, role: Literal["category", "tags"], dtype: pa.DataType) -> pa.Array:
    """Categories or tags [N]; null where a row has none, or one of another shape, which is counted."""
    values, names = batch.value(role), [n for n in batch.mapping.names(role) if n in batch.rows.column_names]
    several = {holds_several(name) for name in names}
    if role == "category" and len(several) > 1:
        raise NotPlain
    results: dict[Any, Any] = {}
    column = []
    for row, value in enumerate(values.to_pylist()):
        name = value if isinstance(value, str) else repr(value)
        if name not in results:
            if batch.mapping.is_marked_up(value):
                raise NotPlain
            try:
                path = partial(category_path, separator=batch.mapping.separator, several=True in several)
                results[name] = path(value) if role == "category" else tags(value)
            except UnusableValue as problem:
                results[name] = problem
        if isinstance(results[name], UnusableValue):
            batch.tally.note(int(batch.lines[row]), f"{role}_not_read", str(results[name]))
        column.append(None if isinstance(results[name], UnusableValue) else results[name])
    return pa.array(column, dtype)


def _labelled(batch: Batch) -> Tables:
    sides = {side: batch.prose(side) for side in ("left", "right")}
    return {"labelled": sides | {"score": batch.scores()} | batch.origin()}


_MAKERS: dict[str, Callable[[Batch], Tables]] = {
    "document": _document,
    "product": _document,
    "query": _query,
    "judgment": _judgment,
    "rated": _rated,
    "pair": _pair,
    "qa": _pair,
    "labelled": _labelled,
}
