"""What is read out of a language model's answers: queries, or why there are none. Nothing in them is trusted.

An answer may be of any length and hold any characters: it is cut to `MAX_CHARS` before it is looked at, and a query is
brought into the same normal form as every text that a build reads, which has no control characters.
"""

import json
import re
from typing import Any

from pipeline.generation.distinct_queries import DistinctQueries
from pipeline.generation.generator import Document, Query
from pipeline.generation.ledger import Ledger
from pipeline.text.normalize import folded, normalise

MAX_CHARS = 100_000  # of an answer
COPIED_WORDS = 8  # a query of so many words that stands in the document as it is is a copy
_FENCE = re.compile(r"\A\s*```[a-z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL | re.IGNORECASE)
_REFUSAL = re.compile(
    r"(?:i['\u2019]?m|i am) (?:very )?sorry\b|sorry, (?:but )?(?:i|as)\b|as an ai\b|as a (?:large )?language model\b"
    r"|i (?:can(?:no|['\u2019])t|cannot|am unable to|['\u2019]m unable to|won['\u2019]t|will not) "
    r"(?:assist|help with|comply|provide|generate|create|fulfil|write|answer|do that)",
    re.IGNORECASE,
)


class UnusableAnswer(ValueError):
    """An answer of which no query can be read; `reason` is what it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_queries(answer: str, kind: str) -> list[Any]:
    """Read the queries of an answer, as they stand in it: of an array in JSON, or all of it as one query.

    A JSON array may stand in a fence of Markdown, or alone in an object. Raises UnusableAnswer for anything else.
    """
    text = answer[:MAX_CHARS].strip()
    if not text:
        raise UnusableAnswer("empty_answer")
    if _REFUSAL.match(text):
        raise UnusableAnswer("refusal")
    if kind == "text":
        return [text]
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as error:
        raise UnusableAnswer("not_json") from error
    if isinstance(value, dict) and len(value) == 1:
        (value,) = value.values()
    if not isinstance(value, list):
        raise UnusableAnswer("not_an_array")
    if not value:
        raise UnusableAnswer("empty_answer")
    return value


def usable_queries(parsed: list[Any], count: int, document: Document, max_chars: int, ledger: Ledger) -> list[str]:
    """Return the first `count` queries that can be used, in normal form; the others are counted by reason.

    An answer with fewer or more queries than were asked for is counted too, and what it has is used.
    """
    ledger.made += len(parsed)
    if len(parsed) != count:
        ledger.notes["answers_with_too_few" if len(parsed) < count else "answers_with_too_many"] += 1
    queries = DistinctQueries(document, count, ledger)
    text = folded(normalise(document.text))
    for item in parsed:
        reason, query = _judge(item, document, text, max_chars)
        queries.add(Query(query), reason)
    return [query.text for query in queries.by_text.values()]


def _judge(item: Any, document: Document, text: str, max_chars: int) -> tuple[str, str]:
    """Why an item of an answer is no query (empty where it is one), and its normal form."""
    if not isinstance(item, str):
        return "query_is_no_text", ""
    query = normalise(item[: 4 * max_chars])
    if len(item) > 4 * max_chars or len(query) > max_chars:
        return "long_query", query
    if not any(letter.isalnum() for letter in query):
        return "empty_query", query
    if _REFUSAL.match(query):
        return "refused_query", query
    plain = folded(query)
    if plain in (text, folded(normalise(document.title))) or (len(plain.split()) >= COPIED_WORDS and plain in text):
        return "copy_of_document", query
    return "", query


def read_yes_or_no(answer: str) -> bool | None:
    """Read a judgment: the one word yes or no, in any case, perhaps with marks around it; None for anything else."""
    word = normalise(answer[:MAX_CHARS]).strip(" .!*\"'`").casefold()
    return {"yes": True, "no": False}.get(word)
