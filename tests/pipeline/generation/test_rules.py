"""Queries by rules: titles, headings and questions, each with what follows it."""

from pipeline.core.config import validate
from pipeline.generation.generator import Document, WritingTask
from pipeline.generation.ledger import Ledger
from pipeline.generation.rules import Rules, RulesWriter

TEXT = """Watering roses

## When to water
Water them in the early morning, before the sun is high. Is rain enough? Only where it falls for two hours or more.

How much
========
Ten litres for each of the plants in a week. Do roots rot? They do in wet clay, so let the soil dry first.
#### Short ##
Too few.
Why? Because of that and of much more besides.
"""


def write(document: Document, queries: int = 10, **settings: object) -> tuple[list[tuple[str, str | None]], Ledger]:
    task = WritingTask(queries, "", "json", 1000, 60, 1, 0, 1)
    ledger = Ledger()
    (written,) = RulesWriter(validate(Rules, settings), task).write([document], ledger)
    assert ledger.made == len(written) + ledger.queries_left_out.total()
    return [(query.text, query.passage) for query in written], ledger


def test_titles_headings_and_questions_stand_for_what_follows_them():
    found, ledger = write(Document("d", "Watering roses", TEXT))
    passages = dict(found)
    assert list(passages) == ["Watering roses", "When to water", "How much", "Is rain enough?", "Do roots rot?"]
    assert passages["Watering roses"].startswith("## When to water Water them"), "the title is not in its own passage"
    assert passages["When to water"].endswith("two hours or more.") and "Ten litres" not in passages["When to water"]
    assert passages["How much"].startswith("Ten litres") and "===" not in passages["How much"]
    assert passages["Is rain enough?"].startswith("Only where it falls")
    assert "Do roots rot" not in passages["Is rain enough?"]
    assert ledger.queries_left_out == {"short_query": 2}


def test_limits_are_counted():
    found, ledger = write(Document("d", "Watering roses", TEXT), queries=2, parts=["questions", "title"])
    assert [query for query, _ in found] == ["Is rain enough?", "Do roots rot?"]
    assert ledger.queries_left_out == {"short_query": 1, "surplus_query": 1}
    found, ledger = write(Document("d", "A title of words", "A title of words"))
    assert not found and ledger.documents_left_out == {"no_usable_query": 1}
    assert ledger.queries_left_out == {"short_passage": 1}
    assert write(Document("d", "", "No title and nothing else."))[1].documents_left_out == {"no_usable_query": 1}


def test_a_text_of_any_shape_takes_linear_time():
    for piece in (" ", "#", "a", "a ", "?", "=\n", "# a\n", "a.b ", '"', "\n", "a? "):
        write(Document("d", piece * 50, piece * 200_000))
