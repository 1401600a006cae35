"""Rows as the datasets library gives them, read by `fields` with names inside their objects."""

from pathlib import Path
from typing import Any

from pipeline.sources.jsonl import JsonLines
from tests.support.corpora import records, write_jsonl


def read(root: Path, rows: list[dict[str, Any]], **settings: Any) -> Any:
    write_jsonl(root / "rows.jsonl", rows)
    kinds, tally = records(JsonLines.model_validate({"path": "rows.jsonl", **settings}), root)
    texts = {row["id"]: row["text"] for row in [*kinds["queries"], *kinds["documents"]]}
    pairs = [(texts[row["query_id"]], texts[row["doc_id"]], row["relevance"]) for row in kinds["judgments"]]
    negatives = [(texts[row["query_id"]], texts[row["doc_id"]]) for row in kinds.get("negatives", [])]
    return pairs, negatives, tally


CONTEXT = "The reef is 300 km long and lies off the coast."
_QUESTIONS: list[dict[str, Any]] = [
    {"question": "How long is the reef?", "answers": {"text": ["300 km", "300 km long"], "answer_start": [12, 12]}},
    {"question": "Who owns the reef?", "answers": {"text": [], "answer_start": []}},
]
SQUAD = [{"id": str(n), "title": "Reef", "context": CONTEXT, **row} for n, row in enumerate(_QUESTIONS)]


def test_squad_answers_as_positives(tmp_path: Path):
    pairs, _, tally = read(tmp_path, SQUAD, kind="qa", fields={"positive": "answers.text"})
    assert pairs == [("How long is the reef?", "300 km", 1), ("How long is the reef?", "300 km long", 1)]
    assert tally.unused.total() == 1 and tally.counts["rows"] == 2


def test_squad_contexts_as_positives_of_the_questions_that_they_answer(tmp_path: Path):
    settings = {"kind": "qa", "fields": {"positive": "context"}, "required": ["answers.text"]}
    pairs, _, tally = read(tmp_path, SQUAD, **settings)
    assert pairs == [("How long is the reef?", CONTEXT, 1)]
    assert tally.unused == {"required_empty": 1} and tally.counts["rows"] == 2
    assert tally.examples["required_empty"] == ["rows.jsonl:2 answers.text says nothing, and is one of `required`"]


def test_a_required_field_without_a_role_is_asked_for_in_plain_rows_too(tmp_path: Path):
    rows = [
        {"question": f"q{n}?", "answer": f"a{n}.", "approved": approved} for n, approved in enumerate(["x", " ", "n/a"])
    ]
    pairs, _, tally = read(tmp_path, rows, kind="qa", required=["approved"])
    assert pairs == [("q0?", "a0.", 1)] and tally.unused == {"required_empty": 2}
    assert not tally.unread, "the field is read"


def test_eli5(tmp_path: Path):
    row: dict[str, Any] = {
        "q_id": "1",
        "title": "Why is the sky blue?",
        "selftext": "",
        "subreddit": "explainlikeimfive",
    }
    row["answers"] = {"a_id": ["a1", "a2"], "text": ["Light scatters.", "Short waves."], "score": [5, 2]}
    fields = {"id": "q_id", "anchor": "title", "positive": "answers.text", "doc_id": "answers.a_id"}
    pairs, _, tally = read(tmp_path, [row], kind="qa", fields=fields)
    assert pairs == [("Why is the sky blue?", "Light scatters.", 1), ("Why is the sky blue?", "Short waves.", 1)]
    assert not tally.dropped


def test_ms_marco_passages_that_were_selected(tmp_path: Path):
    passages = {"is_selected": [0, 1, 0], "passage_text": ["Of trees.", "Corals build reefs.", "Of sand."]}
    row: dict[str, Any] = {"query": "what builds reefs", "query_id": 7, "query_type": "ENTITY", "answers": ["corals"]}
    row["passages"] = passages
    fields = {"positive": "passages.passage_text", "label": "passages.is_selected"}
    pairs, negatives, tally = read(tmp_path, [row], kind="pair", fields=fields)
    assert pairs == [("what builds reefs", "Corals build reefs.", 1)]
    assert negatives == [("what builds reefs", "Of trees."), ("what builds reefs", "Of sand.")]
    assert not tally.dropped
