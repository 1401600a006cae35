"""What is read out of answers: queries in normal form, or one reason why not."""

import json

import pytest

from pipeline.generation.answers import UnusableAnswer, read_queries, read_yes_or_no, usable_queries
from pipeline.generation.generator import Document
from pipeline.generation.ledger import Ledger

LONG = "The lamp hangs on the wall beside the door of the house and shines all night."
DOCUMENT = Document("d", "The lamp", f"The lamp. {LONG}")


@pytest.mark.parametrize(
    "answer",
    ['["a b", "c"]', ' \n```json\n["a b", "c"]\n```\n', '```\n["a b", "c"]```', '{"queries": ["a b", "c"]}'],
)
def test_an_array_is_read_alone_in_a_fence_or_in_an_object(answer: str):
    assert read_queries(answer, "json") == ["a b", "c"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty_answer"),
        (" \n\t", "empty_answer"),
        ("[]", "empty_answer"),
        ('Sure! ["a"]', "not_json"),
        ('["a", ', "not_json"),
        ("[" * 50_000, "not_json"),
        ('{"a": ["b"], "c": 1}', "not_an_array"),
        ('"a"', "not_an_array"),
        ("17", "not_an_array"),
        ("I\u2019m sorry, but I can't help with that.", "refusal"),
        ("As an AI, I have no opinion", "refusal"),
        ("I cannot assist with this request.", "refusal"),
        (json.dumps(["a" * 200_000]), "not_json"),
    ],
)
def test_what_is_no_answer_has_one_reason(answer: str, reason: str):
    with pytest.raises(UnusableAnswer) as error:
        read_queries(answer, "json")
    assert error.value.reason == reason


def test_one_query_is_the_whole_answer():
    assert read_queries(" how do I log in? ", "text") == ["how do I log in?"]
    assert read_queries("I can't log in", "text") == ["I can't log in"], "a query, not a refusal"


def usable(*found: object, count: int = 3) -> tuple[list[str], Ledger]:
    ledger = Ledger()
    return usable_queries(list(found), count, DOCUMENT, 60, ledger), ledger


def test_every_query_is_kept_or_has_one_reason():
    found = ["good one", "GOOD  one", "", "?!", 3, None, "x" * 61, "y" * 10_000, "the lamp", LONG, "As an AI, I ask"]
    kept, ledger = usable(*found, "second", "third", "fourth")
    assert kept == ["good one", "second", "third"]
    assert ledger.queries_left_out == {
        "repeated_query": 1, "empty_query": 2, "query_is_no_text": 2, "long_query": 3, "copy_of_document": 1,
        "refused_query": 1, "surplus_query": 1,
    }  # fmt: skip
    assert ledger.made == len(found) + 3 == len(kept) + ledger.queries_left_out.total()
    assert ledger.notes == {"answers_with_too_many": 1}


def test_words_of_the_document_are_no_copy_until_they_are_many():
    kept, _ = usable("lamp on the wall", "hangs on the wall beside the door", count=2)
    assert len(kept) == 2
    kept, ledger = usable("hangs on the wall beside the door of", count=1)
    assert not kept and ledger.queries_left_out == {"copy_of_document": 1}


def test_hostile_texts_are_cleaned_as_every_text_is():
    kept, _ = usable("a\x00b\u200b \x1b[0m\ud800 c\u2028d", "=1+1", "<script>x</script>")
    assert kept == ["ab [0m c d", "=1+1", "<script>x</script>"]
    assert [text.encode() for text in kept]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        *[("yes", True), ("Yes.", True), (" **NO** \n", False), ("'no'", False), ("yes, because", None), ("", None)],
        *[("yes no", None), ("nope", None), ("true", None), ("y" * 10**6, None)],
    ],
)
def test_only_yes_and_no_are_judgments(answer: str, verdict: bool | None):
    assert read_yes_or_no(answer) is verdict
