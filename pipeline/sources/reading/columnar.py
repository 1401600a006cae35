"""Turns batches of rows into records a column at a time, with the same result as `mapping` row by row.

Plain are texts, numbers and lists of texts. Rows that lack what their kind needs, and batches of anything else, are
left to `mapping`, which says in words what is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.reading.mapping import ROLES, Mapping, path_of, tags_of
from pipeline.sources.reading.record import ROWS, Parsed
from pipeline.text.columns import Mask, from_html, keys, named_after, normalised, stripped, whole

Numbers = npt.NDArray[np.int64]
_NEEDED = {
    "query": ("text",),
    "judgment": ("query_id", "doc_id", "relevance"),
    "rated": ("query", "doc_id", "relevance"),
    "pair": ("anchor", "positive"),
    "qa": ("anchor", "positive"),
    "labelled": ("left", "right", "score"),
}


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

    def take(self) -> tuple[Parsed, Mask] | None:
        """Records of the rows, and which rows [N] they leave out; None for a batch that is not plain."""
        parsed = Parsed()
        try:
            odd = self._odd()
            chosen = self._chosen(np.flatnonzero(~odd)) if odd.any() else self
            for kind, columns in _MAKERS[self.mapping.kind](chosen).items():
                parsed.kinds[kind] = _table(kind, columns)
        except NotPlain:
            return None
        parsed.tally.rows = parsed.tally.counts["rows"] = len(chosen.lines)
        return parsed, odd

    def value(self, role: str) -> pa.Array:
        """Return values [N] of a role: for each row, those of the first of its fields that is not null."""
        columns = [_plain(self.rows[name]) for name in self.mapping.names(role) if name in self.rows.column_names]
        columns = [column for column in columns if not pa.types.is_null(column.type)]
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
        """Return texts [N] of a role, converted from HTML where the source holds some; empty where a row has none."""
        texts = pc.fill_null(self.text(role), "")
        return from_html(texts) if self.mapping.html else texts

    def each(self, role: str, rule: Callable[[Any], Any], dtype: pa.DataType) -> pa.Array:
        """Apply a rule to the values [N] of a role, once for each distinct value; null where it raises."""
        values = self.value(role)
        if pa.types.is_list(values.type):
            raise NotPlain
        coded = values.dictionary_encode()
        return pa.array([_tried(rule, value) for value in coded.dictionary.to_pylist()], dtype).take(coded.indices)

    def grades(self) -> pa.Array:
        """Return relevance [N], null where a row has none that can be read."""
        field = self.mapping.names("relevance")[0]
        return self.each("relevance", lambda value: self.mapping.relevance({field: value}), pa.int32())

    def scores(self) -> pa.Array:
        """Return scores [N] of labelled pairs, null where a row has none that can be read."""
        return self.each("score", lambda value: float(value) / self.mapping.scale, pa.float32())

    def origin(self) -> dict[str, Any]:
        """Return the columns that say where the rows come from, and into which split they are forced."""
        forced: Any = self.mapping.split
        if forced is None and "split" in self.mapping.fields:
            field = self.mapping.fields["split"]
            forced = self.each("split", lambda value: self.mapping.split_of({field: value}), pa.string())
        return {"source": self.label, "order": self.orders, "line": self.lines, "split": forced}

    def group(self) -> pa.Array | None:
        """Return groups [N] that the rows name, None where the kind has no such field."""
        groups = normalised(self.text("group")) if self.mapping.names("group") else None
        return groups if groups is None else pc.if_else(pc.equal(groups, ""), None, groups)

    def ids(self, explicit: pa.Array, mark: str, texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        """Ids [N] as given, elsewhere derived from texts in normal form; and the keys of the texts, where computed."""
        explicit, text_keys = stripped(pc.fill_null(explicit, "")), None
        none = pc.equal(explicit, "")
        if pc.any(none).as_py():
            text_keys = keys(texts)
            explicit = pc.if_else(none, named_after(text_keys, mark), explicit)
        return self.prefixed(explicit), text_keys

    def prefixed(self, ids: pa.Array) -> pa.Array:
        """Put the prefix of the source before ids [N]."""
        return pc.binary_join_element_wise(self.prefix, ids, "")

    def _odd(self) -> Mask:
        """Which rows [N] lack what their kind needs, or have a number that is none."""
        kind = self.mapping.kind
        masks = [self.value(role).is_valid() for role in _NEEDED.get(kind, ())]
        masks = masks or [pc.or_(self.value("title").is_valid(), self.value("text").is_valid())]
        if "relevance" in ROLES[kind]:
            masks.append(pc.or_(self.grades().is_valid(), self.value("relevance").is_null()))
        if kind == "labelled":
            masks.append(self.scores().is_valid())
        odd: Mask = ~np.all([mask.to_numpy(zero_copy_only=False) for mask in masks], axis=0)
        return odd

    def _chosen(self, rows: Numbers) -> "Batch":
        selected = self.rows.take(pa.array(rows))
        return Batch(self.mapping, selected, self.lines[rows], self.orders[rows], self.label, self.prefix)


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array of texts, numbers or lists of texts; raises NotPlain for anything else."""
    array, kind = whole(column), column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return array.cast(pa.string())
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_string(kind.value_type):
        return array.cast(pa.list_(pa.string()))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        return array
    raise NotPlain


def _tried(rule: Callable[[Any], Any], value: Any) -> Any:
    try:
        return rule(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _table(kind: str, columns: dict[str, Any]) -> pa.Table:
    """Rows (`ROWS[kind]`) of columns that are arrays, one value for all rows, or missing."""
    arrays = []
    for field in ROWS[kind]:
        value = columns.get(field.name)
        if isinstance(value, np.ndarray):
            value = pa.array(value)
        if not isinstance(value, pa.Array):
            value = pa.repeat(pa.scalar(value, field.type), len(columns["order"]))
        arrays.append(value.cast(field.type))
    return pa.table(arrays, schema=ROWS[kind])


Tables = dict[str, dict[str, Any]]


def _query(batch: Batch) -> Tables:
    text = normalised(batch.prose("text"))
    ids, key = batch.ids(batch.text("id"), "q", text)
    columns = {"id": ids, "key": key, "text": text, "body": batch.prose("body"), "group": batch.group()}
    return {"queries": columns | batch.origin()}


def _judgment(batch: Batch) -> Tables:
    return {
        "judgments": _judgment_columns(
            batch, *(batch.prefixed(stripped(batch.text(role))) for role in ("query_id", "doc_id"))
        )
    }


def _judgment_columns(batch: Batch, query: pa.Array, document: pa.Array) -> dict[str, Any]:
    grade = batch.grades()
    reason = pc.binary_join_element_wise("judged", grade.cast(pa.string()), " ")
    return {"query_id": query, "doc_id": document, "relevance": grade, "reason": reason} | batch.origin()


def _rated(batch: Batch) -> Tables:
    text = normalised(batch.prose("query"))
    ids, key = batch.ids(batch.text("id"), "q", text)
    query = {"id": ids, "key": key, "mention": True, "text": text, "group": batch.group()}
    judgments = _judgment_columns(batch, ids, batch.prefixed(stripped(batch.text("doc_id"))))
    return {"queries": query | batch.origin(), "judgments": judgments}


def _pair(batch: Batch) -> Tables:
    origin = batch.origin()
    anchor = normalised(batch.prose("anchor"))
    ids, key = batch.ids(batch.text("id"), "q", anchor)
    query = {"id": ids, "key": key, "mention": True, "text": anchor, "group": batch.group()}
    positives, explicit, owner = _positives(batch)
    place_of = {name: _take_rows(value, owner) for name, value in origin.items()}
    documents, key = batch.ids(explicit, "d", positives)
    document = {"id": documents, "key": key, "mention": True, "title": "", "text": positives}
    relevance = _take_rows(pc.fill_null(batch.grades(), 1), owner)
    judgments = {"query_id": _take_rows(ids, owner), "doc_id": documents, "relevance": relevance}
    judgments["reason"] = f"{batch.mapping.kind} of {batch.label}"
    none = pa.array([[]], ROWS["documents"].field("tags").type).take(pa.array(np.zeros(len(positives), np.int8)))
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
        return normalised(batch.prose("positive")), explicit, None
    texts, owner = pc.list_flatten(values), pc.list_parent_indices(values).to_numpy()
    if texts.null_count:
        raise NotPlain
    alone = pc.equal(pc.list_value_length(values), 1)
    texts = from_html(texts) if batch.mapping.html else texts
    return normalised(texts), pc.if_else(alone, explicit, None).take(pa.array(owner)), owner


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
    ends = [stripped(title), stripped(body)]
    both = pc.and_(pc.not_equal(ends[0], ""), pc.not_equal(ends[1], ""))
    text = normalised(pc.binary_join_element_wise(ends[0], pc.if_else(both, ". ", ""), ends[1], ""))
    ids, key = batch.ids(batch.text("id"), "d", text)
    columns = {"id": ids, "key": key, "title": title, "text": text, "body": body, "group": batch.group()}
    category, tags = batch.value("category"), batch.value("tags")
    columns["category"] = pa.array([path_of(value, mapping.separator) for value in category.to_pylist()], pa.string())
    columns["tags"] = pa.array([tags_of(value) for value in tags.to_pylist()], ROWS["documents"].field("tags").type)
    return {"documents": columns | {"product": mapping.kind == "product"} | batch.origin()}


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
