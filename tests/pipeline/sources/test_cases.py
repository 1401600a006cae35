"""Inputs as people have them, row by row: the right pairs, or one line that says what to do."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact
from tests.support.corpora import build, inline, table, write_jsonl

__all__ = ["inline"]
TRAIN = {"train": 1, "dev": 0, "test": 0}


def read(tmp_path: Path, *sources: dict[str, Any], **more: Any) -> Artifact:
    recipe = {"root": str(tmp_path), "sources": list(sources), "split": TRAIN, **more}
    return build(recipe, tmp_path / "run")


def pairs(artifact: Artifact) -> list[tuple[str, str]]:
    return sorted((row["anchor"], row["positive"]) for row in table(artifact, "pairs"))


SQUAD = {"question": "How long is the reef?", "answers": {"text": ["300 km", "300 km long"], "answer_start": [12, 12]}}
NO_ANSWER = {"question": "Who owns it?", "answers": {"text": [], "answer_start": []}}


def test_objects_are_no_texts_and_fields_inside_them_are(inline: None, tmp_path: Path):
    write_jsonl(tmp_path / "rows.jsonl", [SQUAD, NO_ANSWER])
    source = {"type": "jsonl", "path": "rows.jsonl", "kind": "qa"}
    with pytest.raises(UserError, match=r"as `fields: \{positive: answers.text\}`"):
        read(tmp_path, source, max_bad_share=0.4)
    artifact = read(tmp_path, {**source, "fields": {"positive": "answers.text"}})
    assert pairs(artifact) == [("How long is the reef?", "300 km"), ("How long is the reef?", "300 km long")]
    assert artifact.manifest.dropped == {"empty_text": 1}
    pq.write_table(pa.Table.from_pylist([SQUAD, NO_ANSWER]), tmp_path / "rows.parquet")
    file = {"path": "rows.parquet", "kind": "qa", "fields": {"positive": "answers.text"}}
    assert pairs(read(tmp_path, {"type": "parquet", "files": [file]}, overwrite=True)) == pairs(artifact)


def test_lists_of_answers(inline: None, tmp_path: Path):
    rows: list[dict[str, Any]] = [
        {"question": "When open?", "answers": ["At nine.", None, "At ten on Sundays."]},
        {"question": "How to return?", "answers": [{"body": "Use the form.", "votes": 3}]},
        {"question": "What cost?", "answers": [["Ten euros.", "Tax is extra."]]},
    ]
    write_jsonl(tmp_path / "faq.jsonl", rows)
    artifact = read(tmp_path, {"type": "jsonl", "path": "faq.jsonl", "kind": "qa"}, max_bad_share=1.0)
    assert pairs(artifact) == [("When open?", "At nine."), ("When open?", "At ten on Sundays.")]
    assert artifact.manifest.dropped == {"unreadable_row": 2}
    shown = " ".join(artifact.manifest.notes["examples"]["unreadable_row"])
    assert "a list of objects with body, votes" in shown and "a list of lists of texts" in shown


CODE = [
    ("What is the difference between `<div>` and `<span>`?", "`<div>` starts a new line, `<span>` does not."),
    ("`<script>` or `<style>`?", "One holds code, the other looks."),
    ("When is a<b and c>d true?", "When both are: see List<a>."),
    ("How do I write an ampersand?", "Write &amp; in the page."),
]


def test_all_formats_give_the_same_texts_ids_and_splits(inline: None, tmp_path: Path):
    import csv

    rows = [{"question": question, "answer": answer} for question, answer in CODE]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *CODE])
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    sources: list[dict[str, Any]] = [
        {"type": "jsonl", "path": "rows.jsonl", "kind": "qa"},
        {"type": "csv", "path": "rows.csv", "kind": "qa"},
        {"type": "parquet", "files": [{"path": "rows.parquet", "kind": "qa"}]},
        {"type": "huggingface", "dataset": "saved", "kind": "qa"},
    ]
    tables = []
    for source in sources:
        artifact = read(
            tmp_path, {**source, "name": "same"}, split={"train": 0.5, "dev": 0.25, "test": 0.25}, overwrite=True
        )
        tables.append([{**row, "reason": None} for row in table(artifact, "pairs")])
        assert pairs(artifact) == sorted(CODE)
    assert all(rows == tables[0] for rows in tables)


def test_html_of_products_is_removed_counted_and_shown(inline: None, tmp_path: Path):
    rows = [{"id": "1", "title": "Mug", "description": "<p>Holds tea &amp; more</p>"}, {"id": "2", "title": "a<b"}]
    write_jsonl(tmp_path / "p.jsonl", rows)
    artifact = read(tmp_path, {"type": "jsonl", "path": "p.jsonl", "kind": "product"})
    assert [row["text"] for row in table(artifact, "corpus")] == ["Mug. Holds tea & more", "a<b"]
    assert artifact.manifest.notes["counts"]["html_removed"] == 1
    assert "p.jsonl:1 " in artifact.manifest.notes["examples"]["html_removed"][0]


def test_fractions_are_never_rounded(inline: None, tmp_path: Path):
    (tmp_path / "qrels").mkdir()
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": 1, "text": "garden paths"}])
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": n, "title": "", "text": f"Passage {n}"} for n in range(1, 6)])
    grades = [1.0, 0.5, 0.25, 0, 1.5]
    lines = ["query-id\tcorpus-id\tscore", *(f"1\t{n}\t{grade}" for n, grade in enumerate(grades, 1))]
    (tmp_path / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"3 of 5 rows cannot be used; line 3 relevance 0.5 is a fraction; .*`grades`"):
        read(tmp_path, {"type": "beir", "path": "."})
    artifact = read(tmp_path, {"type": "beir", "path": ".", "scale": 0.25})
    assert {row["doc_id"]: row["relevance"] for row in table(artifact, "qrels")} == {
        "1": 4,
        "2": 2,
        "3": 1,
        "4": 0,
        "5": 6,
    }
    named = {"0.25": 1, "0.5": 1, "1": 2, "1.5": 3}
    artifact = read(tmp_path, {"type": "beir", "path": ".", "grades": named}, overwrite=True)
    assert {row["doc_id"]: row["relevance"] for row in table(artifact, "qrels")} == {
        "1": 2,
        "2": 1,
        "3": 1,
        "4": 0,
        "5": 3,
    }


def test_labels_have_a_meaning_or_are_refused(inline: None, tmp_path: Path):
    texts = [
        ("A man eats.", "A person eats.", 0),
        ("A man eats.", "He eats soup.", 1),
        ("A man eats.", "He sleeps.", 2),
    ]
    write_jsonl(
        tmp_path / "nli.jsonl", [dict(zip(("sentence1", "sentence2", "label"), row, strict=True)) for row in texts]
    )
    source = {"type": "jsonl", "path": "nli.jsonl", "kind": "labelled"}
    with pytest.raises(UserError, match=r"line 3 label 2 is above 1; .*`scale`.*`grades`"):
        read(tmp_path, source, max_bad_share=1.0)
    artifact = read(tmp_path, {**source, "grades": {0: 1, 1: 0.5, 2: 0}})
    assert [row["score"] for row in sorted(table(artifact, "labelled"), key=lambda r: r["right"])] == [1, 0.5, 0]
    (tmp_path / "dup.csv").write_text("sentence1,sentence2,score\nHow old?,What age?,True\nHow old?,How tall?,False\n")
    words = {"type": "csv", "path": "dup.csv", "kind": "labelled", "grades": {True: 1, False: 0}}
    found = table(read(tmp_path, words, overwrite=True), "labelled")
    assert sorted((row["right"], row["score"]) for row in found) == [("How tall?", 0), ("What age?", 1)]


def test_names_that_are_no_split_are_refused_or_mapped(inline: None, tmp_path: Path):
    datasets = pytest.importorskip("datasets")

    def part(name: str) -> Any:
        return datasets.Dataset.from_dict(
            {side: [f"{name} {side} {n}" for n in range(6)] for side in ("anchor", "positive")}
        )

    datasets.DatasetDict({"train": part("open"), "test_hard": part("held")}).save_to_disk(str(tmp_path / "saved"))
    source = {"type": "huggingface", "dataset": "saved", "parts": ["train", "test_hard"], "forced": True}
    with pytest.raises(UserError, match=r"'test_hard' is none of train, dev, test; .*`splits: \{test_hard: test\}`"):
        read(tmp_path, source)
    artifact = read(tmp_path, {**source, "splits": {"test_hard": "test"}})
    assert artifact.manifest.notes["splits"]["pairs"] == {"test": 6, "train": 6}
    rows = [{"anchor": f"a {n}", "positive": f"p {n}", "part": "train" if n < 5 else "heldout"} for n in range(6)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    column = {"type": "jsonl", "path": "rows.jsonl", "kind": "pair", "fields": {"split": "part"}}
    with pytest.raises(UserError, match=r"line 6 part 'heldout' is none of train, dev, test"):
        read(tmp_path, column, overwrite=True)


def test_empty_cells_and_null_marks_say_nothing(inline: None, tmp_path: Path):
    (tmp_path / "mixed.csv").write_text(
        "id,sku,title,name,description,text\n,S1,,Red mug,,Holds tea\n2,S2,Blue cup,,Nice,\n"
    )
    corpus = table(read(tmp_path, {"type": "csv", "path": "mixed.csv", "kind": "product"}), "corpus")
    assert [(row["doc_id"], row["text"]) for row in corpus] == [("2", "Blue cup. Nice"), ("S1", "Red mug. Holds tea")]
    answers = ["nan", "null", "None", "N/A", "No Answer Present.", "\\N", "It fits"]
    write_jsonl(tmp_path / "qa.jsonl", [{"question": f"Does {n} fit?", "answer": a} for n, a in enumerate(answers)])
    source = {"type": "jsonl", "path": "qa.jsonl", "kind": "qa"}
    artifact = read(tmp_path, source, overwrite=True)
    assert pairs(artifact) == [("Does 6 fit?", "It fits")] and artifact.manifest.dropped == {"empty_text": 6}
    assert "answer holds 'nan', one of null_values" in artifact.manifest.notes["examples"]["empty_text"][0]
    assert len(pairs(read(tmp_path, {**source, "null_values": []}, overwrite=True))) == 7


def test_columns_that_nothing_is_read_from_are_named(inline: None, tmp_path: Path):
    rows = [{"question": "How?", "answer": "So.", "context": "c", "votes": 3}]
    write_jsonl(tmp_path / "qa.jsonl", rows)
    (tmp_path / "qa.csv").write_text("question,answer,context\nWhy?,Because.,c\n")
    jsonl = {"type": "jsonl", "path": "qa.jsonl", "kind": "qa", "name": "lines"}
    artifact = read(tmp_path, jsonl, {"type": "csv", "path": "qa.csv", "kind": "qa", "name": "cells"})
    assert artifact.manifest.notes["unread_columns"] == {"cells": ["context"], "lines": ["context", "votes"]}


def test_folders_with_brackets_and_hidden_files(inline: None, tmp_path: Path):
    (tmp_path / "data [v2]").mkdir()
    write_jsonl(tmp_path / "data [v2]" / "a.jsonl", [{"question": "How high?", "answer": "A metre"}])
    (tmp_path / "data [v2]" / "._a.jsonl").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    artifact = read(tmp_path, {"type": "jsonl", "path": "data [v2]/*.jsonl", "kind": "qa"})
    assert pairs(artifact) == [("How high?", "A metre")]


def test_control_characters_in_a_dump_cost_no_row(inline: None, tmp_path: Path):
    rows = [
        '<row Id="1" PostTypeId="1" AcceptedAnswerId="2" Title="How do I switch tabs?" Body="&#x0E;" Tags="|t|" />',
        '<row Id="2" PostTypeId="2" ParentId="1" Score="4" Body="&lt;p&gt;Press &#14;Cmd-1.&lt;/p&gt;" />',
    ]
    (tmp_path / "Posts.xml").write_text("<posts>\n" + "\n".join(rows) + "\n</posts>\n")
    artifact = read(tmp_path, {"type": "stackexchange", "path": "Posts.xml"})
    assert pairs(artifact) == [("How do I switch tabs?", "Press Cmd-1.")] and not artifact.manifest.dropped


def test_labels_that_contradict_each_other_are_left_out(inline: None, tmp_path: Path):
    texts = [("How far?", "What distance?", 1), ("How far?", "What distance?", 0), ("Big?", "Large?", 1)]
    texts += [("Big?", "Large?", 1)]
    names = ("sentence1", "sentence2", "score")
    write_jsonl(tmp_path / "dup.jsonl", [dict(zip(names, row, strict=True)) for row in texts])
    artifact = read(tmp_path, {"type": "jsonl", "path": "dup.jsonl", "kind": "labelled"})
    assert [(row["left"], row["score"]) for row in table(artifact, "labelled")] == [("Big?", 1.0)]
    assert artifact.manifest.dropped == {"contradicting_labels": 2, "duplicate_labelled": 1}


def test_queries_of_one_character(inline: None, tmp_path: Path):
    write_jsonl(
        tmp_path / "qa.jsonl", [{"question": "\u8336", "answer": "Tea"}, {"question": "x", "answer": "A letter"}]
    )
    artifact = read(tmp_path, {"type": "jsonl", "path": "qa.jsonl", "kind": "qa"})
    assert pairs(artifact) == [("\u8336", "Tea")] and artifact.manifest.dropped == {"too_short": 1}
