"""Batches of rows into records, a column at a time: what `mapping` makes of each row, where fields are plain.

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
    """A batch has to be read row by row."""


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
        """Values [N] of a role: of its fields the first that a row has."""
        held = [_plain(self.rows[name]) for name in self.mapping.names(role) if name in self.rows.column_names]
        held = [column for column in held if not pa.types.is_null(column.type)]
        if len({column.type for column in held}) > 1:
            raise NotPlain
        return pc.coalesce(*held) if held else pa.nulls(len(self.lines), pa.string())

    def text(self, role: str) -> pa.Array:
        """Texts [N] of a role, null where a row has none."""
        found = self.value(role)
        if not (pa.types.is_string(found.type) or pa.types.is_integer(found.type)):
            raise NotPlain
        return found.cast(pa.string())

    def prose(self, role: str) -> pa.Array:
        """Texts [N] of a role, out of their HTML where the source may hold some; empty where a row has none."""
        found = pc.fill_null(self.text(role), "")
        return from_html(found) if self.mapping.html else found

    def each(self, role: str, rule: Callable[[Any], Any], dtype: pa.DataType) -> pa.Array:
        """What a rule makes of the values [N] of a role, null where it raises; each distinct one is looked at once."""
        values = self.value(role)
        if pa.types.is_list(values.type):
            raise NotPlain
        coded = values.dictionary_encode()
        return pa.array([_tried(rule, value) for value in coded.dictionary.to_pylist()], dtype).take(coded.indices)

    def grades(self) -> pa.Array:
        """Relevance [N], null where there is none to be read."""
        field = self.mapping.names("relevance")[0]
        return self.each("relevance", lambda value: self.mapping.relevance({field: value}), pa.int32())

    def scores(self) -> pa.Array:
        """Scores [N] of labelled pairs, null where there is none to be read."""
        return self.each("score", lambda value: float(value) / self.mapping.scale, pa.float32())

    def place(self) -> dict[str, Any]:
        """Columns that say where the rows come from, and into which split they are forced."""
        forced: Any = self.mapping.split
        if forced is None and "split" in self.mapping.fields:
            field = self.mapping.fields["split"]
            forced = self.each("split", lambda value: self.mapping.split_of({field: value}), pa.string())
        return {"source": self.label, "order": self.orders, "line": self.lines, "split": forced}

    def group(self) -> pa.Array | None:
        """Groups [N] that the rows name."""
        named = normalised(self.text("group")) if self.mapping.names("group") else None
        return named if named is None else pc.if_else(pc.equal(named, ""), None, named)

    def ids(self, given: pa.Array, mark: str, texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        """Ids [N] as given, elsewhere derived from texts in normal form; and the keys of the texts, where computed."""
        given, found = stripped(pc.fill_null(given, "")), None
        none = pc.equal(given, "")
        if pc.any(none).as_py():
            found = keys(texts)
            given = pc.if_else(none, named_after(found, mark), given)
        return self.named(given), found

    def named(self, ids: pa.Array) -> pa.Array:
        """Ids [N] with the prefix of the source."""
        return pc.binary_join_element_wise(self.prefix, ids, "")

    def _odd(self) -> Mask:
        """Which rows [N] lack what their kind needs, or have a number that is none."""
        kind = self.mapping.kind
        held = [self.value(role).is_valid() for role in _NEEDED.get(kind, ())]
        held = held or [pc.or_(self.value("title").is_valid(), self.value("text").is_valid())]
        if "relevance" in ROLES[kind]:
            held.append(pc.or_(self.grades().is_valid(), self.value("relevance").is_null()))
        if kind == "labelled":
            held.append(self.scores().is_valid())
        odd: Mask = ~np.all([mask.to_numpy(zero_copy_only=False) for mask in held], axis=0)
        return odd

    def _chosen(self, rows: Numbers) -> "Batch":
        kept = self.rows.take(pa.array(rows))
        return Batch(self.mapping, kept, self.lines[rows], self.orders[rows], self.label, self.prefix)


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
    made = []
    for field in ROWS[kind]:
        value = columns.get(field.name)
        if isinstance(value, np.ndarray):
            value = pa.array(value)
        if not isinstance(value, pa.Array):
            value = pa.repeat(pa.scalar(value, field.type), len(columns["order"]))
        made.append(value.cast(field.type))
    return pa.table(made, schema=ROWS[kind])


Tables = dict[str, dict[str, Any]]


def _query(batch: Batch) -> Tables:
    text = normalised(batch.prose("text"))
    ids, key = batch.ids(batch.text("id"), "q", text)
    columns = {"id": ids, "key": key, "text": text, "body": batch.prose("body"), "group": batch.group()}
    return {"queries": columns | batch.place()}


def _judgment(batch: Batch) -> Tables:
    return {"judgments": _judged(batch, *(batch.named(stripped(batch.text(role))) for role in ("query_id", "doc_id")))}


def _judged(batch: Batch, query: pa.Array, document: pa.Array) -> dict[str, Any]:
    grade = batch.grades()
    reason = pc.binary_join_element_wise("judged", grade.cast(pa.string()), " ")
    return {"query_id": query, "doc_id": document, "relevance": grade, "reason": reason} | batch.place()


def _rated(batch: Batch) -> Tables:
    text = normalised(batch.prose("query"))
    ids, key = batch.ids(batch.text("id"), "q", text)
    query = {"id": ids, "key": key, "mention": True, "text": text, "group": batch.group()}
    judged = _judged(batch, ids, batch.named(stripped(batch.text("doc_id"))))
    return {"queries": query | batch.place(), "judgments": judged}


def _pair(batch: Batch) -> Tables:
    place = batch.place()
    anchor = normalised(batch.prose("anchor"))
    ids, key = batch.ids(batch.text("id"), "q", anchor)
    query = {"id": ids, "key": key, "mention": True, "text": anchor, "group": batch.group()}
    positives, given, owner = _positives(batch)
    place_of = {name: _taken(value, owner) for name, value in place.items()}
    documents, key = batch.ids(given, "d", positives)
    document = {"id": documents, "key": key, "mention": True, "title": "", "text": positives}
    relevance = _taken(pc.fill_null(batch.grades(), 1), owner)
    judged = {"query_id": _taken(ids, owner), "doc_id": documents, "relevance": relevance}
    judged["reason"] = f"{batch.mapping.kind} of {batch.label}"
    none = pa.array([[]], ROWS["documents"].field("tags").type).take(pa.array(np.zeros(len(positives), np.int8)))
    return {"queries": query | place, "documents": document | {"tags": none} | place_of, "judgments": judged | place_of}


def _positives(batch: Batch) -> tuple[pa.Array, pa.Array, Numbers | None]:
    """Positives [M] in normal form, their given ids, and the row of each; None for one a row."""
    held = batch.value("positive")
    given = batch.text("doc_id")
    if not pa.types.is_list(held.type):
        return normalised(batch.prose("positive")), given, None
    texts, owner = pc.list_flatten(held), pc.list_parent_indices(held).to_numpy()
    if texts.null_count:
        raise NotPlain
    alone = pc.equal(pc.list_value_length(held), 1)
    texts = from_html(texts) if batch.mapping.html else texts
    return normalised(texts), pc.if_else(alone, given, None).take(pa.array(owner)), owner


def _taken(value: Any, rows: Numbers | None) -> Any:
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
    return {"documents": columns | {"product": mapping.kind == "product"} | batch.place()}


def _labelled(batch: Batch) -> Tables:
    sides = {side: batch.prose(side) for side in ("left", "right")}
    return {"labelled": sides | {"score": batch.scores()} | batch.place()}


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
