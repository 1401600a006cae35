"""COVID-QA: questions on scientific articles about the coronavirus, with the span of each answer, in SQuAD's JSON."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import DOCUMENT, JUDGMENT, QUERY, Corpus, Outputs, github, rows_table, split_tables
from .splits import read_splits

MAX_CHARS = 900
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\n+")


def prepare(folder: Path) -> Outputs:
    """Cut articles into passages; those that overlap with the span of an answer are relevant to its question."""
    articles = json.loads((folder / "covidqa.json").read_text(encoding="utf-8"))["data"]
    splits = read_splits("covidqa")
    documents: dict[str, dict[str, Any]] = {}
    queries: list[dict[str, Any]] = []
    judgments: dict[tuple[str, str], dict[str, Any]] = {}
    for article, entry in enumerate(articles):
        split = splits.get(article, "train")
        for paragraph, content in enumerate(entry["paragraphs"]):
            spans = cut_passages(content["context"])
            doc_ids = add_passages(documents, content["context"], spans, f"{article}-{paragraph}")
            for question in content["qas"]:
                query_id = str(question["id"])
                queries.append({"query_id": query_id, "text": " ".join(question["question"].split()), "split": split})
                for doc_id in relevant_passages(question["answers"], spans, doc_ids):
                    row = {"query_id": query_id, "doc_id": doc_id, "relevance": 1, "split": split}
                    judgments[query_id, doc_id] = row
    return {
        "corpus.parquet": rows_table(documents.values(), DOCUMENT),
        **split_tables("queries", queries, QUERY),
        **split_tables("qrels", judgments.values(), JUDGMENT),
    }


def cut_passages(text: str) -> list[tuple[int, int]]:
    """Cut a text at ends of sentences into spans (start, end) of about `MAX_CHARS`, longer sentences anywhere."""
    spans: list[tuple[int, int]] = []
    for start, end in cut_sentences(text):
        if spans and end - spans[-1][0] <= MAX_CHARS + 1:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def cut_sentences(text: str) -> Iterator[tuple[int, int]]:
    """Give the spans of sentences, none longer than `MAX_CHARS`."""
    start = 0
    for end, following in [*(match.span() for match in SENTENCE_END.finditer(text)), (len(text), len(text))]:
        for piece in range(start, max(end, start + 1), MAX_CHARS):
            yield piece, min(piece + MAX_CHARS, end)
        start = following


def add_passages(
    documents: dict[str, dict[str, Any]], context: str, spans: list[tuple[int, int]], prefix: str
) -> list[str]:
    """Add the passages of one article that no other has, by their text; return the id of every passage."""
    doc_ids = []
    for number, (start, end) in enumerate(spans):
        text = " ".join(context[start:end].split())
        row = {"doc_id": f"{prefix}-{number}", "title": "", "text": text, "category": None}
        doc_ids.append(documents.setdefault(text, row)["doc_id"])
    return doc_ids


def relevant_passages(answers: list[dict[str, Any]], spans: list[tuple[int, int]], doc_ids: list[str]) -> list[str]:
    """Return the ids of the passages that overlap with an answer."""
    relevant = {
        doc_id
        for answer in answers
        for (start, end), doc_id in zip(spans, doc_ids, strict=True)
        if start < answer["answer_start"] + len(answer["text"]) and answer["answer_start"] < end
    }
    return sorted(relevant)


COVIDQA = Corpus(
    name="covidqa",
    folder="qa/covidqa",
    task="question to passage",
    origin="https://github.com/deepset-ai/COVID-QA",
    licence="Apache-2.0",
    note="the release of 2020-04-23, with 98 articles of CORD-19",
    downloads=(
        github(
            "deepset-ai/COVID-QA",
            "fb2eb5e249618457e5359806601086c635c8eb8f",
            "data/question-answering/200423_covidQA.json",
            "ab310b4e39f726e087c8fa3d1787c73771dacddc584977204ebe3cc889ee1264",
            2_697_757,
            name="covidqa.json",
        ),
    ),
    prepare=prepare,
)
