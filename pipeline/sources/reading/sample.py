"""The beginning of a file or folder, by which a source says whether it can read it, and with which settings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from statistics import median
from typing import Any, Literal

from pipeline.sources.reading.roles import ROLES, Kind
from pipeline.sources.reading.values import UnusableValue, decoded, text_field

FileFormat = Literal["csv", "json lines", "json", "parquet", "xml", "text", "folder", "zip", "xlsx"]
Settings = dict[str, Any]

# roles without which a row of a kind cannot be used, the most telling kinds first
_NEEDED: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "judgment": (("query_id", "doc_id", "relevance"),),
    "rated": (("query", "doc_id", "relevance"),),
    "labelled": (("left", "right", "score"),),
    "pair": (("anchor", "positive"),),
    "qa": (("anchor", "positive"),),
    "product": (("title", "id"), ("title", "text")),
    "document": (("text",), ("title", "id")),
    "query": (("text",),),
}
_WORDS = re.compile(r"[^a-z0-9]+")
_TEXT_LENGTH = 12  # median of characters, from which a column is taken for texts


@dataclass(frozen=True)
class FileSample:
    """A file or folder by its beginning: names of columns, first rows, names of files inside, first bytes."""

    path: str
    format: FileFormat
    columns: tuple[str, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    files: tuple[str, ...] = ()  # of a folder, relative to it
    start: bytes = b""
    records: str = ""  # of a JSON document, the field that holds the rows
    header: bool = True  # of a delimited table: whether its first row names the columns

    def has(self, *columns: str) -> bool:
        """Whether it has all of these columns, whatever their case."""
        return set(columns) <= {column.lower() for column in self.columns}


def mapping_settings(sample: FileSample) -> list[Settings]:
    """Settings of kind and fields by which rows of these columns can be read, the most telling kind first."""
    if not sample.header:
        return _without_header(sample)
    settings: list[Settings] = []
    for kind, alternatives in _NEEDED.items():
        fields = {role: name for role in ROLES[kind] if (name := _column_of(kind, role, sample.columns))}
        enough = any(all(role in fields for role in roles) for roles in alternatives)
        if enough and not (kind == "product" and _is_document(fields)):
            inner = {role: _inner_field(sample, role, name) for role, name in fields.items()}
            renamed = {role: name for role, name in inner.items() if not _is_usual(kind, role, name)}
            scale = _scale(sample, fields["score"]) if kind == "labelled" else {}
            settings.append({"kind": kind, **({"fields": renamed} if renamed else {}), **scale})
    return settings or _by_length(sample)


def _without_header(sample: FileSample) -> list[Settings]:
    """Names for the columns of a table without a header: two texts and a score, or two or three texts."""
    numbers = [all(_is_number(row.get(name)) for row in sample.rows) for name in sample.columns]
    match numbers:
        case [False, False, True]:
            columns, kind = ["sentence1", "sentence2", "score"], "labelled"
        case [False, False]:
            columns, kind = ["anchor", "positive"], "pair"
        case [False, False, False]:
            columns, kind = ["anchor", "positive", "negative"], "pair"
        case _:
            return []
    return [{"kind": kind, "columns": columns, **(_scale(sample, sample.columns[2]) if kind == "labelled" else {})}]


def _by_length(sample: FileSample) -> list[Settings]:
    """Documents whose text is the column with the longest texts, where no column has a usual name."""
    lengths = {name: _median_length(sample, name) for name in sample.columns}
    longest = max(lengths, key=lambda name: lengths[name], default="")
    return [{"kind": "document", "fields": {"text": longest}}] if longest and lengths[longest] >= _TEXT_LENGTH else []


def _inner_field(sample: FileSample, role: str, column: str) -> str:
    """The column of a role, or the field inside its objects that holds the text, as `answers.text` of SQuAD."""
    value = next((row[column] for row in sample.rows if row.get(column)), None)
    try:
        value = decoded(value)
    except UnusableValue:
        return column
    first = value[0] if isinstance(value, list | tuple) and value else value
    is_passage = isinstance(first, dict) and isinstance(first.get("text"), str) and role in ("positive", "negative")
    if not isinstance(first, dict) or is_passage or role not in ("anchor", "positive", "negative", "title", "text"):
        return column
    return f"{column}.{text_field(first)}"


def _median_length(sample: FileSample, column: str) -> float:
    """Median length of a column's texts; 0 where it holds anything else."""
    values = [row.get(column) for row in sample.rows]
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    is_text = len(texts) > 0 and not any(_is_number(text) for text in texts)
    return median(map(len, texts)) if is_text and all(isinstance(value, str | None) for value in values) else 0


def _scale(sample: FileSample, column: str) -> Settings:
    """The scale of scores above 1: the smallest whole number that none exceeds; none for numbers of three classes.

    Which of the classes 0, 1 and 2 means alike differs from one data set to the next.
    """
    values = [float(row[column]) for row in sample.rows if _is_number(row.get(column))]
    if set(values) <= {-1.0, 0.0, 1.0, 2.0}:
        return {}
    return {"scale": float(ceil(max(values)))} if values and max(values) > 1 else {}


def _is_number(value: Any) -> bool:
    try:
        return isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _is_document(fields: dict[str, str]) -> bool:
    """Whether a product's columns all have names that a plain document's have too."""
    return all(_is_usual("document", role, name) for role, name in fields.items() if role in ROLES["document"])


def _column_of(kind: Kind, role: str, columns: Sequence[str]) -> str | None:
    """The column that holds a role: by a usual name as it is, else by one in other case or with other separators."""
    names = ROLES[kind][role]
    exact = next((name for name in names if name in columns), None)
    plain = {_plain(column): column for column in reversed(columns)}
    return exact or next((plain[_plain(name)] for name in names if _plain(name) in plain), None)


def _is_usual(kind: Kind, role: str, column: str) -> bool:
    """Whether a mapping finds the column without `fields`."""
    return column in ROLES[kind][role]


def _plain(name: str) -> str:
    return _WORDS.sub("_", name.strip().lower()).strip("_")
