"""The rule for a document that is the query itself, which mining, evaluation and validation share."""

import numpy as np

from pipeline.text.same_document import SelfMatches, id_keys, join_keys, text_keys


def test_same_id_or_same_text():
    queries = SelfMatches(["q1", "q2", "q3"], ["Is it  safe?", "Why?", "How?"], {})
    found = queries.find(["d1", "q2", "d3", "q3"], ["is it safe?", "Why? It has a body.", "something else", "HOW?"])
    assert found == [("q1", 0), ("q2", 1), ("q3", 3)], "by text, by id, and once where it is both"


def test_an_answer_with_the_number_of_its_question_is_no_question():
    qrels = {"1": {"1": 1}, "2": {"2": 0}, "3": {"3": 1}}
    queries = SelfMatches(["1", "2", "3"], ["Who?", "What?", "Where?"], qrels)
    assert queries.find(["1", "2", "3"], ["The king.", "The castle.", "Where?"]) == [("2", 1), ("3", 2)]


def test_every_pair_of_equal_texts():
    queries = SelfMatches(["a", "b"], ["same", "same"], {})
    assert queries.find(["x", "y", "z"], ["Same", "other", "same"]) == [("a", 0), ("a", 2), ("b", 0), ("b", 2)]
    assert SelfMatches([], [], {}).find(["x"], ["y"]) == []
    assert queries.find([], []) == []


def test_keys_join_owners_and_documents():
    keys = id_keys(["a", "b", None])
    assert keys[2] == 0 and (text_keys(["A  b", "a b"]) == text_keys(["a b", "A B"])).all()
    owner, row = join_keys(np.array([7, 8, 9]), keys, id_keys(["b", None, "a", "b"]))
    assert sorted(zip(owner.tolist(), row.tolist(), strict=True)) == [(7, 2), (8, 0), (8, 3)]
