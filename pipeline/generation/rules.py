"""Queries without a language model: a document's title, its headings and its questions, each with what follows it.

A title stands for the rest of its document, a heading for its section, and a question of the document for the sentences
behind it. The passage of such a query is without the query's own words, since a positive that begins with its anchor
teaches nothing. Headings are seen where lines are: in files, not in a corpus of `build`, whose texts are one line.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from pipeline.generation.distinct_queries import DistinctQueries
from pipeline.generation.generator import Document, Generator, Query, QueryWriter, WritingTask
from pipeline.generation.ledger import Ledger
from pipeline.text.normalize import normalise

Part = Literal["title", "headings", "questions"]
_MARKED = re.compile(r"#{1,6}[ \t]")
_UNDERLINE = re.compile(r"={3,}|-{3,}")
_SENTENCE_END = re.compile("[.!?\u3002\uff01\uff1f][\"')\\]]*(?=\\s|\\Z)|[\u3002\uff01\uff1f]|\n")
_QUESTION_MARKS = ("?", "\uff1f")


class Rules(Generator):
    """Rules in place of a model."""

    type: Literal["rules"] = "rules"
    parts: list[Part] = Field(
        ["title", "headings", "questions"], min_length=1, description="what becomes a query, the first ones first"
    )
    min_words: int = Field(2, ge=1, description="words of a query at least")
    max_words: int = Field(30, ge=1, description="words of a query at most")
    min_passage_words: int = Field(5, ge=1, description="words of what follows a query at least")

    def open(self, task: WritingTask) -> QueryWriter:
        """Nothing has to be loaded."""
        return RulesWriter(self, task)


class RulesWriter:
    """Makes queries by rules."""

    def __init__(self, config: Rules, task: WritingTask) -> None:
        self.config, self.task = config, task

    def write(self, documents: Sequence[Document], ledger: Ledger) -> list[list[Query]]:
        """Make the queries of each document [N]."""
        return [self._of(document, ledger) for document in documents]

    def _of(self, document: Document, ledger: Ledger) -> list[Query]:
        queries = DistinctQueries(document, self.task.queries, ledger)
        for raw, rest in self._candidates(document):
            ledger.made += 1
            query, passage = normalise(raw), normalise(rest)
            queries.add(Query(query, passage), self._reason(query, passage))
        if not queries.by_text:
            ledger.leave_out_document("no_usable_query", document.id)
        return list(queries.by_text.values())

    def _reason(self, query: str, passage: str) -> str:
        """Why a query is not used; empty where it is."""
        words = len(query.split())
        if words < self.config.min_words:
            return "short_query"
        if words > self.config.max_words or len(query) > self.task.max_query_chars:
            return "long_query"
        return "short_passage" if len(passage.split()) < self.config.min_passage_words else ""

    def _candidates(self, document: Document) -> Iterator[tuple[str, str]]:
        """Queries of a document, each with the text that it stands for."""
        extractors = {"title": _title, "headings": _headings, "questions": _questions}
        for part in self.config.parts:
            yield from extractors[part](document)


def _title(document: Document) -> Iterator[tuple[str, str]]:
    """The title, and the text without it."""
    if title := normalise(document.title):
        text = normalise(document.text)
        yield title, text.removeprefix(title).lstrip(" .:|-") if text.startswith(title) else text


def _headings(document: Document) -> Iterator[tuple[str, str]]:
    """Headings as Markdown writes them, and the text up to the next one."""
    lines, heading, section = document.text.split("\n"), "", list[str]()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        underlined = bool(line.strip()) and _UNDERLINE.fullmatch(following.strip()) is not None
        if not (underlined or _MARKED.match(line)):
            section += [] if _UNDERLINE.fullmatch(line.strip()) else [line]
            continue
        if heading:
            yield heading, " ".join(section)
        heading, section = line.strip("# \t\r"), []
    if heading:
        yield heading, " ".join(section)


def _questions(document: Document) -> Iterator[tuple[str, str]]:
    """Sentences that end with a question mark, and what follows up to the next one."""
    text, start, question, answer = document.text, 0, "", 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        sentence = text[start:end].strip("#*-> \t\r\n\"')]")
        if sentence.endswith(_QUESTION_MARKS):
            if question:
                yield question, text[answer:start]
            question, answer = sentence, end
        start = end
    if question:
        yield question, text[answer:]
