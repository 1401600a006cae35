"""Turns rows of named fields into records: shared by JSON lines, CSV, Parquet files and data sets.

Each kind has roles, and each role a few usual names of fields, taken in order; `fields` names another one.
"""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.core.errors import UserError
from pipeline.sources.reading.record import Parsed, Templated, described
from pipeline.sources.reading.splits import Split, parse_split
from pipeline.text.normalize import html_to_text, identifier, key, normalise

Kind = Literal["document", "product", "query", "judgment", "rated", "pair", "qa", "labelled"]
Row = dict[str, Any]
MAX_GRADE = 1_000_000
_DOCUMENT = {
    "id": ("id", "_id", "doc_id"),
    "title": ("title",),
    "text": ("text", "body", "content"),
    "category": ("category",),
    "tags": ("tags",),
    "group": (),
    "split": (),
}
_PAIR = {
    "anchor": ("anchor", "query"),
    "positive": ("positive", "document"),
    "id": ("query_id",),
    "doc_id": ("doc_id",),
    "relevance": ("relevance",),
    "group": (),
    "split": (),
}
ROLES: dict[str, dict[str, tuple[str, ...]]] = {
    "document": _DOCUMENT,
    "product": _DOCUMENT
    | {
        "id": ("id", "_id", "product_id", "doc_id", "sku", "asin"),
        "title": ("title", "name", "product_title"),
        "text": ("description", "product_description", "text"),
        "category": ("category", "categories"),
        "attributes": ("attributes",),
    },
    "query": {
        "id": ("id", "_id", "query_id"),
        "text": ("text", "query"),
        "body": ("body",),
        "group": (),
        "split": (),
    },
    "judgment": {
        "query_id": ("query_id", "query-id"),
        "doc_id": ("doc_id", "corpus-id", "product_id"),
        "relevance": ("relevance", "score", "label"),
        "split": (),
    },
    "rated": {
        "query": ("query", "keyword", "search_term"),
        "doc_id": ("doc_id", "docid", "product_id"),
        "relevance": ("relevance", "rating", "score", "label"),
        "id": ("query_id",),
        "group": (),
        "split": (),
    },
    "pair": _PAIR,
    "qa": _PAIR | {"anchor": ("question",), "positive": ("answer", "answers"), "id": ("id", "_id", "question_id")},
    "labelled": {
        "left": ("left", "sentence1"),
        "right": ("right", "sentence2"),
        "score": ("score", "label"),
        "split": (),
    },
}


class UnusableRow(ValueError):
    """A row lacks what its kind needs: a reason for the manifest and a detail."""


class Mapping(Templated):
    """Which field holds which role (text, id, relevance ...), and what kind of record a row is."""

    kind: Kind = "document"
    fields: dict[str, str] = Field(default={}, description="role: name of the field")
    attributes: list[str] = Field(default=[], description="fields of a product that become 'name: value; ...'")
    html: bool = Field(default=False, description="whether texts may hold HTML")
    separator: str = Field(default=">", description="between the levels of a category written as one string")
    split: Split | None = Field(default=None, description="force all rows into one split")
    grades: dict[str, int] = Field(
        default={}, description="relevance of labels that are no numbers, such as {E: 3, I: 0}"
    )
    scale: float = Field(
        default=1.0, gt=0, description="divide the scores of labelled pairs by this: 5 takes 0..5 to 0..1"
    )

    @model_validator(mode="after")
    def _check_fields(self) -> "Mapping":
        unknown = sorted(set(self.fields) - set(ROLES[self.kind]))
        if unknown:
            raise ValueError(f"kind {self.kind} has no role {unknown[0]!r}; choose from {', '.join(ROLES[self.kind])}")
        return self

    def names(self, role: str) -> tuple[str, ...]:
        """Fields in which a role is looked for, in order."""
        return (self.fields[role],) if role in self.fields else ROLES[self.kind][role]

    def get(self, row: Row, role: str) -> Any:
        """Return the value of a role, None where the row has none."""
        for name in self.names(role):
            if (value := row.get(name)) is not None:
                return value
        return None

    def need(self, row: Row, *roles: str) -> list[str]:
        """Texts of roles without which the row is of no use; raises UnusableRow for the first that is missing."""
        for role in roles:
            if self.get(row, role) is None:
                present = ", ".join(list(row)[:8])
                raise UnusableRow(f"no field {' or '.join(map(repr, self.names(role)))} for {role}; it has {present}")
        return [string(self.get(row, role)) for role in roles]

    def prose(self, row: Row, role: str) -> str:
        """Text of a role, out of its HTML where the source may hold some."""
        text = string(self.get(row, role))
        return html_to_text(text) if self.html else text

    def attributes_of(self, row: Row) -> str:
        """Attributes of a product: the field of that role, then the fields of the recipe's list."""
        if self.kind != "product":
            return ""
        listed = string({name: row.get(name) for name in self.attributes})
        return "; ".join(filter(None, (self.prose(row, "attributes"), html_to_text(listed) if self.html else listed)))

    def take(self, row: Row, line: int, origin: Row, prefix: str, parsed: Parsed) -> None:
        """Add the records of one row, or the reason why it cannot be used."""
        try:
            origin = {"line": line, "split": self.split_of(row), **origin}
            _MAKERS[self.kind](self, row, origin, prefix, parsed)
        except UnusableRow as problem:
            parsed.tally.offend(line, "missing_field", str(problem))
        except (ValueError, TypeError, OverflowError) as problem:
            parsed.tally.offend(line, "unreadable_row", str(problem))

    def split_of(self, row: Row) -> Split | None:
        """Split into which the recipe or the row forces the row."""
        return self.split or (parse_split(self.get(row, "split")) if "split" in self.fields else None)

    def group_of(self, row: Row) -> str | None:
        """Return the group that the row names: rows of one group stay in one split."""
        return normalise(string(self.get(row, "group"))) or None

    def relevance(self, row: Row, default: int | None = None) -> int:
        """Relevance as a whole number, from a number or from a label in `grades`."""
        value = self.get(row, "relevance")
        if value is None and default is not None:
            return default
        if str(value) in self.grades:
            return self.grades[str(value)]
        grade = round(float(value))
        if abs(grade) > MAX_GRADE:
            raise ValueError(f"relevance {grade} is beyond {MAX_GRADE}")
        return grade


def string(value: Any) -> str:
    """Text of a JSON value: lists joined by blanks, objects as `name: value; ...`, nothing as ''."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {string(item)}" for name, item in value.items() if string(item))
    if isinstance(value, list | tuple):
        return " ".join(filter(None, map(string, value)))
    return str(value)


def path_of(value: Any, separator: str) -> str | None:
    """Category as 'a > b > c' from a list of levels or from one string."""
    levels = value if isinstance(value, list) else string(value).split(separator)
    return " > ".join(filter(None, (normalise(string(level)) for level in levels))) or None


def derived_id(mark: str, text: str) -> str:
    """Id of a text that has none: the same for the same text."""
    return f"{mark}-{key(normalise(text)).hex()[:16]}"


def _identity(explicit: Any, mark: str, text: str, prefix: str) -> Row:
    return {"id": prefix + (identifier(string(explicit)) or derived_id(mark, text))}


def _document(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    title, body = mapping.prose(row, "title"), mapping.prose(row, "text")
    if mapping.get(row, "text") is None:
        mapping.need(row, "title" if mapping.get(row, "title") is not None else "text")
    attributes = mapping.attributes_of(row)
    category, tags = path_of(mapping.get(row, "category"), mapping.separator), tags_of(mapping.get(row, "tags"))
    text = mapping.compose(title, body, category, tags, attributes)
    body = described(body, attributes)
    record: Row = {"title": title, "text": text, "body": body, "category": category, "tags": tags}
    record.update(product=mapping.kind == "product", group=mapping.group_of(row))
    parsed.add("documents", **_identity(mapping.get(row, "id"), "d", text, prefix), **record, **origin)


def tags_of(value: Any) -> list[str]:
    """Tags from a list or from one string with commas."""
    items = value if isinstance(value, list) else string(value).split(",")
    return [tag for tag in (normalise(string(item)) for item in items) if tag]


def _query(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    mapping.need(row, "text")
    text = mapping.prose(row, "text")
    identity = _identity(mapping.get(row, "id"), "q", text, prefix)
    body = mapping.prose(row, "body")
    parsed.add("queries", **identity, text=text, body=body, group=mapping.group_of(row), **origin)


def _judgment(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    query_id, doc_id, _ = mapping.need(row, "query_id", "doc_id", "relevance")
    grade = mapping.relevance(row)
    ids = {"query_id": prefix + identifier(query_id), "doc_id": prefix + identifier(doc_id)}
    parsed.add("judgments", **ids, relevance=grade, reason=f"judged {grade}", **origin)


def _rated(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    """Make a query, and a judgment of a document that another source has."""
    _, doc_id, _ = mapping.need(row, "query", "doc_id", "relevance")
    text, grade = mapping.prose(row, "query"), mapping.relevance(row)
    query = _identity(mapping.get(row, "id"), "q", text, prefix)
    parsed.add("queries", **query, mention=True, text=text, group=mapping.group_of(row), **origin)
    ids = {"query_id": query["id"], "doc_id": prefix + identifier(doc_id)}
    parsed.add("judgments", **ids, relevance=grade, reason=f"judged {grade}", **origin)


def _pair(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    """Make a query, and for each positive a document and a judgment that joins them."""
    mapping.need(row, "anchor", "positive")
    anchor, value, grade = mapping.prose(row, "anchor"), mapping.get(row, "positive"), mapping.relevance(row, 1)
    query = _identity(mapping.get(row, "id"), "q", anchor, prefix)
    parsed.add("queries", **query, mention=True, text=anchor, group=mapping.group_of(row), **origin)
    positives = [item["text"] if isinstance(item, dict) else item for item in value] if _many(value) else [value]
    for positive in map(string, positives):
        text = html_to_text(positive) if mapping.html else positive
        explicit = mapping.get(row, "doc_id") if len(positives) == 1 else None
        document = _identity(explicit, "d", text, prefix)
        parsed.add("documents", **document, mention=True, title="", text=text, tags=[], **origin)
        ids = {"query_id": query["id"], "doc_id": document["id"]}
        parsed.add("judgments", **ids, relevance=grade, reason=f"{mapping.kind} of {origin['source']}", **origin)


def _many(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) or (isinstance(v, dict) and "text" in v) for v in value)


def _labelled(mapping: Mapping, row: Row, origin: Row, prefix: str, parsed: Parsed) -> None:
    _, _, score = mapping.need(row, "left", "right", "score")
    left, right = mapping.prose(row, "left"), mapping.prose(row, "right")
    parsed.add("labelled", left=left, right=right, score=float(score) / mapping.scale, **origin)


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
        if name not in columns:
            raise UserError(f"source {display}: has no column {name!r} for {role}; it has {', '.join(columns)}")
