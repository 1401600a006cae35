"""Turns rows of named fields into records: shared by JSON lines, CSV, Parquet files and data sets.

Each kind has roles, and each role a few usual names of fields, tried in order; `fields` names another one.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.core.errors import UserError
from pipeline.sources.reading.labels import LabelConfig, UnusableRow
from pipeline.sources.reading.passages import Passage, passages
from pipeline.sources.reading.record import IdKind, Parsed, SourceConfig, Templated, described
from pipeline.sources.reading.roles import ROLES, Kind, numbered
from pipeline.sources.reading.splits import Split
from pipeline.sources.reading.values import (
    NULL_VALUES,
    UnusableValue,
    attribute_text,
    category_path,
    check_no_list,
    decoded,
    holds_several,
    identifier,
    is_missing,
    lookup,
    tags,
    text,
)
from pipeline.text.normalize import html_to_text, key, looks_like_html, normalise

Row = dict[str, Any]
_STATED: dict[Kind, tuple[IdKind, ...]] = {  # whose texts a row states beside the judgment that joins them
    "pair": ("queries", "documents"),
    "qa": ("queries", "documents"),
    "rated": ("queries",),
}
_IDS = ("id", "query_id", "doc_id", "relevance", "score")


class Mapping(Templated, LabelConfig):
    """Which field holds which role (text, id, relevance ...), and what kind of record a row is."""

    kind: Kind = "document"
    fields: dict[str, str | None] = Field(
        default={},
        description="role: name of its field, or of one inside it (`answers.text`); null: the rows have no such role",
    )
    attributes: list[str] = Field(default=[], description="fields of a product that become 'name: value; ...'")
    html: bool | None = Field(
        default=None, description="whether texts are HTML; by default a product's that hold closing tags or entities"
    )
    null_values: list[str] = Field(default=list(NULL_VALUES), description="texts that stand for no value")
    decode: list[str] | None = Field(
        default=None,
        description="fields whose texts are lists or objects, written as JSON or Python does, to be read as such; []"
        " for none; by default a text that writes a list of texts or an object is an unreadable row",
    )
    required: list[str] = Field(
        default=[],
        description="fields that a used row has, such as answers.text of questions about a text",
    )
    separator: str = Field(default=">", min_length=1, description="between the levels of a category in one string")
    split: Split | None = Field(default=None, description="force all rows into one split")

    @model_validator(mode="after")
    def _check_fields(self) -> "Mapping":
        unknown = sorted(set(self.fields) - set(ROLES[self.kind]))
        if unknown:
            raise ValueError(f"kind {self.kind} has no role {unknown[0]!r}; choose from {', '.join(ROLES[self.kind])}")
        return self

    @property
    def nulls(self) -> frozenset[str]:
        """Texts that stand for no value, to look up."""
        return _frozen(tuple(self.null_values))

    @property
    def known_fields(self) -> frozenset[str]:
        """Fields that some role is read from, numbered ones aside."""
        return _known_fields(self.kind, tuple(self.fields.items()), (*self.attributes, *self.required))

    def reads(self, field: str) -> bool:
        """Whether a field has a meaning under this mapping."""
        return field in self.known_fields or (
            "negative" in ROLES[self.kind] and numbered(field) in self.names("negative")
        )

    def names(self, role: str) -> tuple[str, ...]:
        """Fields in which a role is looked for, in order."""
        if role not in self.fields:
            return ROLES[self.kind].get(role, ())
        name = self.fields[role]
        return () if name is None else (name,)

    def fields_without_ids(self, kind: IdKind) -> dict[str, str | None] | None:
        """Return `fields` without ids of queries or documents; None where a row does not state these texts itself."""
        if kind not in _STATED.get(self.kind, ()):
            return None
        return self.fields | dict.fromkeys(("id",) if kind == "queries" else ("doc_id", "negative_id"))

    def value(self, row: Row, name: str) -> Any:
        """Return the value of a field, None for one that says nothing; what says nothing in a list is None too."""
        value = lookup(row, name)
        if self.decode and name in self.decode:
            value = decoded(value)
        if is_missing(value, self.nulls):
            return None
        if isinstance(value, list | tuple):
            return [None if is_missing(item, self.nulls) else item for item in value]
        return value

    def find(self, row: Row, role: str) -> tuple[str, Any]:
        """Return the first field of a role that says something, and what it says; None where there is none."""
        names = self.names(role)
        for name in names:
            if (value := self.value(row, name)) is not None:
                return name, value
        return (names[0] if names else role), None

    def get(self, row: Row, role: str) -> Any:
        """Return the value of a role, None where the row has none."""
        return self.find(row, role)[1]

    def need(self, row: Row, *roles: str) -> None:
        """Raise UnusableRow for the first of the roles that the row lacks."""
        for role in roles:
            if self.get(row, role) is not None:
                continue
            empty = [name for name in self.names(role) if name.split(".")[0] in row]
            if empty and role not in _IDS:
                content = lookup(row, empty[0])
                problem = (
                    f"holds {content!r}, one of null_values"
                    if isinstance(content, str) and content.strip()
                    else "is empty"
                )
                raise UnusableRow("empty_text", f"{empty[0]} {problem}")
            present = ", ".join(list(row)[:8])
            names = " or ".join(map(repr, self.names(role)[:3]))
            raise UnusableRow("missing_field", f"no field {names} for {role}; it has {present}")

    def check_required(self, row: Row) -> None:
        """Raise UnusableRow for the first field of `required` that says nothing."""
        for name in self.required:
            if self.value(row, name) is None:
                raise UnusableRow("required_empty", f"{name} says nothing, and is one of `required`")

    def id_of(self, row: Row, role: str) -> str:
        """Return the id that a role holds, '' for none."""
        name, value = self.find(row, role)
        return identifier(value, name, role)

    def prose(self, row: Row, role: str, parsed: Parsed) -> str:
        """Return the text of a role without its markup, where it is HTML; '' where the row has none."""
        name, value = self.find(row, role)
        self.check_text(value, name, role)
        return self.plain(text(value, name, role), parsed)

    def check_text(self, value: Any, name: str, role: str) -> None:
        """Raise UnusableValue for a text that writes a list or an object, unless `decode` says what such texts are."""
        if self.decode is None and isinstance(value, str):
            check_no_list(value, name, role)

    def plain(self, markup: str, parsed: Parsed) -> str:
        """Return a text without its markup, where it is HTML; what was removed is counted."""
        result = self.without_markup(markup)
        if result != markup:
            parsed.tally.note_change(parsed.line, "html_removed", markup, result)
        return result

    def without_markup(self, markup: str) -> str:
        """Return the plain text of HTML, and any other text as it is."""
        is_html = self.html if self.html is not None else self.kind == "product" and looks_like_html(markup)
        return html_to_text(markup) if is_html else markup

    def is_marked_up(self, value: Any) -> bool:
        """Whether a product's category or tags hold markup or entities, as `Home &amp; Garden` of a shop does."""
        if isinstance(value, list | tuple):
            return any(map(self.is_marked_up, value))
        return self.kind == "product" and self.html is not False and isinstance(value, str) and looks_like_html(value)

    def plain_labels(self, value: Any, parsed: Parsed) -> Any:
        """Return a product's category or tags, a text or lists of texts, without markup and entities."""
        if isinstance(value, list | tuple):
            return [self.plain_labels(item, parsed) for item in value]
        return self.plain(value, parsed) if self.is_marked_up(value) else value

    def attributes_of(self, row: Row, parsed: Parsed) -> str:
        """Attributes of a product: the field of that role, then the fields of the recipe's list."""
        if self.kind != "product":
            return ""
        name, value = self.find(row, "attributes")
        listed = attribute_text({name: self.value(row, name) for name in self.attributes})
        return "; ".join(filter(None, (self.plain(part, parsed) for part in (attribute_text(value, name), listed))))

    def take(self, row: Row, line: int, origin: Row, prefix: str, parsed: Parsed) -> None:
        """Add the records of one row, or the reason why it cannot be used."""
        parsed.line = line
        parsed.tally.unread.update(name for name in row.keys() - self.known_fields if not self.reads(name))
        try:
            self.check_required(row)
            origin = {"line": line, "split": self.forced_split(row), **origin}
            _MAKERS[self.kind](self, row, origin, prefix, parsed)
        except UnusableRow as problem:
            parsed.tally.offend(line, problem.reason, str(problem))
        except (ValueError, TypeError, OverflowError) as problem:
            parsed.tally.offend(line, "unreadable_row", str(problem))

    def forced_split(self, row: Row) -> Split | None:
        """Return the split into which the recipe or the row forces the row; None for one by hash."""
        if self.split or "split" not in self.fields:
            return self.split
        name, value = self.find(row, "split")
        return None if value is None else self.split_of(value, name)

    def group_of(self, row: Row) -> str | None:
        """Return the group that the row names: rows of one group stay in one split."""
        return normalise(self.id_of(row, "group")) or None

    def relevance(self, row: Row, default: int | None = None) -> int:
        """Return the relevance that a row states, as a whole number."""
        name, value = self.find(row, "relevance")
        return default if value is None and default is not None else self.grade(value, name)


class MappedSource(SourceConfig, Mapping):
    """A source whose rows are read through one mapping."""

    def with_derived_ids(self, kind: IdKind) -> "MappedSource | None":
        """Return the source without the role of the ids, where its rows state both sides of a pair."""
        fields = self.fields_without_ids(kind)
        return None if fields is None else self.model_copy(update={"fields": fields})


@lru_cache(maxsize=64)
def _frozen(values: tuple[str, ...]) -> frozenset[str]:
    return frozenset(values)


@lru_cache(maxsize=64)
def _known_fields(kind: Kind, fields: tuple[tuple[str, str | None], ...], others: tuple[str, ...]) -> frozenset[str]:
    """Fields that the roles of a kind are read from, with the heads of those inside objects."""
    mapping = Mapping.model_construct(kind=kind, fields=dict(fields))
    names = {name for role in ROLES[kind] for name in mapping.names(role)} | set(others)
    return frozenset(names | {name.split(".")[0] for name in names})


def derived_id(mark: str, text: str) -> str:
    """Id of a text that has none: the same for the same text."""
    return f"{mark}-{key(normalise(text)).hex()[:16]}"


def _identity(explicit: str, mark: str, text: str, prefix: str) -> Row:
    return {"id": prefix + (explicit or derived_id(mark, text))}


def _document(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    title, body = mapping.prose(row, "title", parsed), mapping.prose(row, "text", parsed)
    if mapping.get(row, "text") is None:
        mapping.need(row, "title" if mapping.get(row, "title") is not None else "text")
    attributes = mapping.attributes_of(row, parsed)
    category, labels = _optional(mapping, row, "category", parsed), _optional(mapping, row, "tags", parsed) or []
    composed = mapping.compose(title, body, category, labels, attributes)
    body = described(body, attributes)
    record: Row = {"title": title, "text": composed, "body": body, "category": category, "tags": labels}
    record.update(product=mapping.kind == "product", group=mapping.group_of(row))
    parsed.add("documents", **_identity(mapping.id_of(row, "id"), "d", composed, prefix), **record, **origin)


def _optional(mapping: Mapping, row: Row, role: Literal["category", "tags"], parsed: Parsed) -> Any:
    """Category or tags of a row; of a shape that is neither, nothing, which is counted."""
    name, value = mapping.find(row, role)
    if value is None:
        return None
    try:
        value = mapping.plain_labels(value, parsed)
        if role == "tags":
            return tags(value)
        return category_path(value, mapping.separator, several=holds_several(name))
    except UnusableValue as problem:
        parsed.tally.note(parsed.line, f"{role}_not_read", str(problem))
        return None


def _query(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    mapping.need(row, "text")
    question, body = mapping.prose(row, "text", parsed), mapping.prose(row, "body", parsed)
    identity = _identity(mapping.id_of(row, "id"), "q", question, prefix)
    parsed.add("queries", **identity, text=question, body=body, group=mapping.group_of(row), **origin)


def _judgment(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    mapping.need(row, "query_id", "doc_id", "relevance")
    grade = mapping.relevance(row)
    ids = {role: prefix + mapping.id_of(row, role) for role in ("query_id", "doc_id")}
    parsed.add("judgments", **ids, relevance=grade, reason=f"judged {grade}", **origin)


def _rated(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    """Make a query, and a judgment of a document that another source has."""
    mapping.need(row, "query", "doc_id", "relevance")
    question, grade = mapping.prose(row, "query", parsed), mapping.relevance(row)
    query = _identity(mapping.id_of(row, "id"), "q", question, prefix)
    ids = {"query_id": query["id"], "doc_id": prefix + mapping.id_of(row, "doc_id")}
    parsed.add("queries", **query, mention=True, text=question, group=mapping.group_of(row), **origin)
    parsed.add("judgments", **ids, relevance=grade, reason=f"judged {grade}", **origin)


def _pair(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    """Make a query, and for each positive a document and a judgment; given negatives are documents of the row too."""
    mapping.need(row, "anchor", "positive")
    prompt, anchor = mapping.prose(row, "prompt", parsed), mapping.prose(row, "anchor", parsed)
    positives, negatives = passages(mapping, row)
    grade = mapping.relevance(row, 1)
    query = _identity(mapping.id_of(row, "id"), "q", prompt + anchor, prefix)
    records = [_passage_record(mapping, passage, prefix, parsed) for passage in (*positives, *negatives)]
    _check_ids(records)
    parsed.add("queries", **query, mention=True, text=prompt + anchor, group=mapping.group_of(row), **origin)
    for record in records:
        parsed.add("documents", **record, mention=True, tags=[], **origin)
    reason, ids = f"{mapping.kind} of {origin['source']}", [record["id"] for record in records]
    stated = mapping.kind == "qa" or mapping.get(row, "relevance") is None  # a graded pair is a judgment
    for doc_id, passage in zip(ids, positives, strict=False):
        relevance = grade if passage.relevance is None else passage.relevance
        judgment = {"query_id": query["id"], "doc_id": doc_id, "relevance": relevance, "score": passage.score}
        parsed.add("judgments", **judgment, reason=reason, stated=stated, **origin)
    for rank, (doc_id, passage) in enumerate(zip(ids[len(positives) :], negatives, strict=True), 1):
        parsed.add("negatives", query_id=query["id"], doc_id=doc_id, score=passage.score, rank=rank, **origin)


def _passage_record(mapping: Mapping, passage: Passage, prefix: str, parsed: Parsed) -> Row:
    title, body = mapping.plain(passage.title, parsed), mapping.plain(passage.text, parsed)
    composed = mapping.compose(title, body) if title else body
    texts = {"title": title, "text": composed, **({"body": body} if title else {})}
    return _identity(passage.id, "d", composed, prefix) | texts


def _check_ids(records: list[Row]) -> None:
    """Refuse a row that gives one id to two texts."""
    texts: dict[str, str] = {}
    for record in records:
        if texts.setdefault(record["id"], record["text"]) != record["text"] and not _alike(texts, record):
            raise ValueError(f"two documents of the row have the id {record['id']!r}")


def _alike(texts: dict[str, str], record: Row) -> bool:
    return key(normalise(texts[record["id"]])) == key(normalise(record["text"]))


def _labelled(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    mapping.need(row, "left", "right", "score")
    name, value = mapping.find(row, "score")
    left, right = mapping.prose(row, "left", parsed), mapping.prose(row, "right", parsed)
    parsed.add("labelled", left=left, right=right, score=mapping.score(value, name), **origin)


_MAKERS: dict[str, Callable[[Mapping, Row, Row, str, Parsed], None]] = {
    "document": _document,
    "product": _document,
    "query": _query,
    "judgment": _judgment,
    "rated": _rated,
    "pair": _pair,
    "qa": _pair,
    "labelled": _labelled,
}


def check_columns(mapping: Mapping, columns: list[str], display: str) -> None:
    """Refuse a table whose columns lack a field that the recipe names."""
    roles = [*mapping.fields.items(), *(("attributes", name) for name in mapping.attributes)]
    for role, name in roles:
        if name is not None and name not in columns and name.split(".")[0] not in columns:
            raise UserError(f"source {display}: has no column {name!r} for {role}; it has {', '.join(columns)}")
