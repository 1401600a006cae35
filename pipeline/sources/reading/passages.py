"""Positives and given negatives of one row, in the layouts in which training data is published.

- Sentence Transformers: `positive` with `negative` or `negative_1`, `negative_2` ..., perhaps `scores` of them all, and
  lists of documents with `labels` 1 and 0;
- FlagEmbedding: `pos` and `neg`, lists, perhaps with `pos_scores`, `neg_scores`, `pos_id`, `neg_id`;
- Tevatron: `positive_passages` and `negative_passages`, objects with docid, title and text;
- DPR: `positive_ctxs`, `hard_negative_ctxs` and `negative_ctxs`, objects with passage_id, title and text.
"""

from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.sources.reading.labels import UnusableRow
from pipeline.sources.reading.roles import number_of, numbered
from pipeline.sources.reading.values import (
    UnusableValue,
    identifier,
    is_missing,
    is_number,
    items,
    mend,
    number,
    shape,
    text,
)

if TYPE_CHECKING:
    from pipeline.sources.reading.mapping import Mapping, Row

_IDS = ("docid", "doc_id", "_id", "id", "passage_id", "psg_id", "pid")


@dataclass(frozen=True, slots=True)
class Passage:
    """A document that a row states: its text and whatever else the row says of it."""

    text: str
    title: str = ""
    id: str = ""
    score: float | None = None  # a teacher's
    relevance: int | None = None


def passages(mapping: "Mapping", row: "Row") -> tuple[list[Passage], list[Passage]]:
    """Return the positives and the negatives of a row of kind pair or qa.

    Raises UnusableValue or UnusableRow for a shape that says neither which documents are right nor which are not.
    """
    name, value = mapping.find(row, "positive")
    mapping.check_text(value, name, "positive")
    documents = [_without_ids(mapping, "doc_id", item) for item in items(value)]
    labels = mapping.get(row, "label")
    scores = mapping.get(row, "scores")
    ids = _per_document(mapping, row, "doc_id", documents)
    negatives = _negatives(mapping, row)
    if labels is not None:
        grades = [mapping.grade(label, "label") for label in _aligned(labels, documents, "labels", name)]
        graded = _make(documents, name, ids, _aligned(scores, documents, "scores", name), grades)
        return [p for p in graded if (p.relevance or 0) > 0], [p for p in graded if (p.relevance or 0) <= 0] + negatives
    positive_scores = _per_document(mapping, row, "positive_score", documents)
    if scores is not None and isinstance(value, list | tuple) and not negatives:
        if name not in ("positive", "positives", "pos"):
            raise UnusableRow(
                "unreadable_row", f"{name} and scores do not say which documents are right; give `labels` of 1 and 0"
            )
        graded = _make(documents, name, ids, _aligned(scores, documents, "scores", name))
        return (graded[:1], graded[1:]) if name == "positive" else (graded, [])
    if scores is not None:
        shared = _aligned(scores, [*documents, *negatives], "scores", f"{name} and its negatives")
        positive_scores, rest = shared[: len(documents)], shared[len(documents) :]
        negatives = [_scored(passage, score) for passage, score in zip(negatives, rest, strict=True)]
    return _make(documents, name, ids, positive_scores), [p for p in negatives if p.text]


def _negatives(mapping: "Mapping", row: "Row") -> list[Passage]:
    """Negatives of all fields that hold some, in the order of their numbers; empty ones keep their place in scores."""
    names = mapping.names("negative")
    fields = [name for name in names if name in row or "." in name]
    fields += sorted((name for name in row if numbered(name) in names), key=number_of)
    found = [(name, mapping.value(row, name)) for name in fields]
    for name, value in found:
        mapping.check_text(value, name, "negative")
    documents = [(name, _without_ids(mapping, "negative_id", item)) for name, value in found for item in items(value)]
    values = [item for _, item in documents]
    ids = _per_document(mapping, row, "negative_id", values)
    scores = _per_document(mapping, row, "negative_score", values)
    return [
        _passage(item, name, "negative", doc_id, score)
        for (name, item), doc_id, score in zip(documents, ids, scores, strict=True)
    ]


def _without_ids(mapping: "Mapping", role: str, document: Any) -> Any:
    """Return a document without the ids inside it, where the rows have no such role."""
    if mapping.fields.get(role, role) is not None or not isinstance(document, Dict):
        return document
    return {name: value for name, value in document.items() if name not in _IDS}


def _make(
    documents: list[Any], name: str, ids: list[Any], scores: list[Any], grades: list[int] | None = None
) -> list[Passage]:
    relevance: list[int | None] = list(grades) if grades is not None else [None] * len(documents)
    rows = zip(documents, ids, scores, relevance, strict=True)
    result = [_passage(item, name, "positive", doc_id, score, grade) for item, doc_id, score, grade in rows]
    return [passage for passage in result if passage.text]


def _passage(
    item: Any, name: str, role: str, doc_id: Any = None, score: Any = None, relevance: int | None = None
) -> Passage:
    title = ""
    if isinstance(item, Dict) and isinstance(item.get("text"), str):
        doc_id = next((item[key] for key in _IDS if not is_missing(item.get(key))), doc_id)
        item, title = item["text"], text(item.get("title"), f"{name}.title")
    if not (item is None or isinstance(item, str) or is_number(item)):
        raise UnusableValue(f"{name} holds {shape([item])}, not texts{mend(item, name, role)}")
    value = None if is_missing(score) else number(score, f"score of {name}")
    return Passage("" if is_missing(item) else str(item), title, identifier(doc_id, f"id of {name}"), value, relevance)


def _scored(passage: Passage, score: Any) -> Passage:
    return Passage(passage.text, passage.title, passage.id, None if is_missing(score) else number(score, "scores"))


def _per_document(mapping: "Mapping", row: "Row", role: str, documents: list[Any]) -> list[Any]:
    """What a role says of each document: a list of as many, one value for the only document, or nothing."""
    name, value = mapping.find(row, role)
    if isinstance(value, list | tuple) or len(documents) == 1:
        return _aligned(value, documents, name, "the documents")
    return [None] * len(documents)


def _aligned(values: Any, documents: list[Any], name: str, documents_name: str) -> list[Any]:
    """Values of documents [N] as a list [N]; nothing for each where there are none."""
    if values is None:
        return [None] * len(documents)
    aligned = items(values)
    if len(aligned) == 1 and not isinstance(values, list | tuple):
        aligned *= len(documents)
    if len(aligned) != len(documents):
        raise UnusableRow("unreadable_row", f"{name} has {len(aligned)} values, {documents_name} {len(documents)}")
    return aligned
