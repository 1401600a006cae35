"""Which fields hold which role of a row, by the kind of the row: the usual names, tried in order."""

import re
from typing import Literal

Kind = Literal["document", "product", "query", "judgment", "rated", "pair", "qa", "labelled"]
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
    "anchor": ("anchor", "query", "question"),
    "positive": ("positive", "pos", "positives", "positive_passages", "positive_ctxs", "document", "documents", "docs"),
    "negative": ("negative", "neg", "negatives", "negative_passages", "hard_negative_ctxs", "negative_ctxs"),
    "id": ("query_id",),
    "doc_id": ("doc_id", "positive_id", "pos_id", "positive_ids"),
    "negative_id": ("negative_id", "neg_id", "negative_ids"),
    "relevance": ("relevance",),
    "label": ("label", "labels"),
    "scores": ("scores",),
    "positive_score": ("positive_score", "pos_scores", "positive_scores"),
    "negative_score": ("negative_score", "neg_scores", "negative_scores"),
    "prompt": ("prompt",),
    "group": (),
    "split": (),
}
NEGATIVE_ROLES = ("negative", "negative_id", "label", "scores", "positive_score", "negative_score", "prompt")
ROLES: dict[str, dict[str, tuple[str, ...]]] = {
    "document": _DOCUMENT,
    "product": _DOCUMENT
    | {
        "id": ("id", "_id", "product_id", "doc_id", "sku", "asin"),
        "title": ("title", "name", "product_title"),
        "text": ("description", "product_description", "short_description", "text"),
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
    "qa": _PAIR
    | {
        "anchor": ("question", "query", "anchor"),
        "positive": ("answer", "answers", *_PAIR["positive"]),
        "id": ("id", "_id", "question_id", "query_id"),
        "label": (),
        "scores": (),
        "prompt": (),
    },
    "labelled": {
        "left": ("left", "sentence1", "question1", "text1"),
        "right": ("right", "sentence2", "question2", "text2"),
        "score": ("score", "label", "is_duplicate"),
        "split": (),
    },
}
_NUMBERED = re.compile(r"(.+?)_?\d+")


def numbered(name: str) -> str | None:
    """Return `negative` of `negative_1` or `negative1`, as n-tuples name their columns; None without a number."""
    match = _NUMBERED.fullmatch(name)
    return match[1] if match else None


def number_of(name: str) -> int:
    """Return the number at the end of a field's name, by which the negatives of an n-tuple are in order."""
    return int(re.search(r"\d+$", name)[0])  # type: ignore[index]
