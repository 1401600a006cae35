"""Tables and JSON as programs write them, from the file to the tables, row by row."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact
from tests.support.corpora import build, inline, table, write_jsonl

__all__ = ["inline"]


def read(tmp_path: Path, *sources: dict[str, Any], **more: Any) -> Artifact:
    recipe = {"root": str(tmp_path), "sources": list(sources), "overwrite": True, **more}
    return build({**recipe, "split": {"train": 1, "dev": 0, "test": 0}}, tmp_path / "run")


def pairs(artifact: Artifact) -> list[tuple[str, str]]:
    return sorted((row["anchor"], row["positive"]) for row in table(artifact, "pairs"))


def test_dialects_of_csv(inline: None, tmp_path: Path):
    written = {
        "sep.csv": "sep=;\nQuestion;Answer\nHow much is it?;Ten euros\nWhen do you open?;On Monday\n",
        "header.csv": "Question (short, plain);Answer (long, plain)\nHow much, roughly?;Ten, or eleven\nWhen?;Now\n",
        "mysql.csv": '"id","question","answer"\n"1","What does \\"hub\\" mean?","The centre, of a wheel"\n'
        '"2","How big is it?",\\N\n"3","Is it fine?","Yes it is"\n',
        "stray.tsv": 'question\tanswer\n"Fits 24 inch racks?\tYes, it does\nHow tall is it?\tTwo metres\n'
        'Which colour is it?\tRed "wine"\nIs it heavy?\tNo\n',
    }
    for name, text in written.items():
        (tmp_path / name).write_text(text)

    def qa(name: str, **settings: Any) -> Artifact:
        return read(tmp_path, {"type": "csv", "path": name, "kind": "qa", **settings}, max_bad_share=1.0)

    assert pairs(qa("sep.csv")) == [("How much is it?", "Ten euros"), ("When do you open?", "On Monday")]
    fields = {"anchor": "Question (short, plain)", "positive": "Answer (long, plain)"}
    assert pairs(qa("header.csv", fields=fields)) == [("How much, roughly?", "Ten, or eleven"), ("When?", "Now")]
    escaped = qa("mysql.csv", escape="\\")
    assert pairs(escaped) == [
        ("Is it fine?", "Yes it is"),
        ('What does "hub" mean?', "The centre, of a wheel"),
    ]
    assert escaped.manifest.dropped == {"empty_text": 1}
    plain = qa("mysql.csv")
    assert plain.manifest.dropped == {"empty_text": 1, "unreadable_row": 1}
    assert "say `escape:" in plain.manifest.notes["examples"]["unreadable_row"][0]
    stray = qa("stray.tsv")
    assert pairs(stray) == [
        ("How tall is it?", "Two metres"),
        ("Is it heavy?", "No"),
        ("Which colour is it?", 'Red "wine"'),
    ]
    assert stray.manifest.notes["input_rows"][0] | {"source": "", "file": ""} == {
        "source": "",
        "file": "",
        "read": 4,
        "used": 3,
        "unused": {"unreadable_row": 1},
    }


def test_lines_that_a_quote_swallows_are_counted(inline: None, tmp_path: Path):
    (tmp_path / "f.csv").write_text('question,answer\nAsk?,one\n"B and\nmore words\nstill" more,b\nCost?,two\n')
    artifact = read(tmp_path, {"type": "csv", "path": "f.csv", "kind": "qa"})
    assert pairs(artifact) == [("Ask?", "one"), ("Cost?", "two")]
    assert artifact.manifest.notes["counts"]["lines_of_unreadable_rows"] == 3
    assert artifact.manifest.notes["examples"]["unreadable_row"][0].endswith("; it takes 3 lines")


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ('[\n {\n  "question": "How deep?",\n  "answer": "Ten metres"\n }\n]', {}),
        ('[\n{"question": "How deep?", "answer": "Ten metres"}\n]\n', {}),
        ('{"articles": [{"question": "How deep?", "answer": "Ten metres"}], "count": 1}', {"records": "articles"}),
    ],
)
def test_layouts_of_json(inline: None, tmp_path: Path, text: str, settings: dict[str, str]):
    (tmp_path / "f.json").write_text(text)
    assert pairs(read(tmp_path, {"type": "json", "path": "f.json", "kind": "qa", **settings})) == [
        ("How deep?", "Ten metres")
    ]
    if text.startswith("["):
        with pytest.raises(UserError, match="use `type: json`"):
            read(tmp_path, {"type": "jsonl", "path": "f.json", "kind": "qa"})


def test_json_ld(inline: None, tmp_path: Path):
    product = {"@type": "Product", "name": "Mug", "sku": "1", "description": "Holds tea"}
    (tmp_path / "ld.json").write_text(json.dumps({"@context": "https://schema.org", "@graph": [product]}))
    artifact = read(tmp_path, {"type": "json", "path": "ld.json", "kind": "product"})
    assert [(row["doc_id"], row["text"]) for row in table(artifact, "corpus")] == [("1", "Mug. Holds tea")]


def test_ids_that_pandas_made_floats(inline: None, tmp_path: Path):
    write_jsonl(tmp_path / "goods.jsonl", [{"product_id": n, "title": f"Chair {n}"} for n in (1, 2)])
    (tmp_path / "judged.csv").write_text("query,product_id,relevance\nfirst chair,1.0,1\n")
    sources = [
        {"type": "jsonl", "path": "goods.jsonl", "kind": "product"},
        {"type": "csv", "path": "judged.csv", "kind": "rated"},
    ]
    with pytest.raises(UserError, match=r"none of its 1 judgments finds a document: it names '1.0', .* named as '1'"):
        read(tmp_path, *sources)


def test_each_row_has_one_reason(inline: None, tmp_path: Path):
    (tmp_path / "blank.csv").write_text("question,answer\nHow much?,\n,Answer two\nHow far?,Two miles\n,,\n")
    artifact = read(tmp_path, {"type": "csv", "path": "blank.csv", "kind": "qa"}, max_bad_share=1.0)
    assert artifact.manifest.dropped == {"empty_text": 3} and pairs(artifact) == [("How far?", "Two miles")]
    assert artifact.manifest.notes["input_rows"] == [
        {"source": "csv", "file": "blank.csv", "read": 4, "used": 1, "unused": {"empty_text": 3}}
    ]


@pytest.mark.parametrize("buckets", [1, 5])
def test_a_pair_turned_round_is_contradicted_by_the_other_label(inline: None, tmp_path: Path, buckets: int):
    rows = ["How far?,What distance?,1", "What distance?,How far?,0", "How far?,What distance?,0"]
    rows += ["Big?,Large?,1", "Large?,Big?,1", "Old?,Aged?,True"]
    (tmp_path / "dup.csv").write_text("\n".join(["question1,question2,is_duplicate", *rows]))
    fields = {"left": "question1", "right": "question2", "score": "is_duplicate"}
    source = {"type": "csv", "path": "dup.csv", "kind": "labelled", "fields": fields, "grades": {"True": 1}}
    artifact = read(tmp_path, source, buckets=buckets)
    assert [(row["left"], row["right"], row["score"]) for row in table(artifact, "labelled")] == [
        ("Big?", "Large?", 1.0),
        ("Large?", "Big?", 1.0),
        ("Old?", "Aged?", 1.0),
    ]
    assert artifact.manifest.dropped == {"contradicting_labels": 3}


def test_one_character_is_a_word_in_some_scripts(inline: None, tmp_path: Path):
    words = ["\u8336", "\uae40", "\u304b", "\U00020bb7", "x", "7"]
    write_jsonl(tmp_path / "qa.jsonl", [{"question": word, "answer": f"Answer {n}"} for n, word in enumerate(words)])
    artifact = read(tmp_path, {"type": "jsonl", "path": "qa.jsonl", "kind": "qa"})
    assert {anchor for anchor, _ in pairs(artifact)} == set(words[:4])
    assert artifact.manifest.dropped == {"too_short": 2}


def test_what_programs_write_for_nothing(inline: None, tmp_path: Path):
    nothing = ["nan", "null", "None", "N/A", "No Answer Present.", "\\N", "NaT", "#REF!", "(null)", " ", "undefined"]
    rows = [{"question": f"Does {n} fit?", "answer": word} for n, word in enumerate([*nothing, "none of them do"])]
    write_jsonl(tmp_path / "qa.jsonl", rows)
    artifact = read(tmp_path, {"type": "jsonl", "path": "qa.jsonl", "kind": "qa"}, max_bad_share=1.0)
    assert pairs(artifact) == [(f"Does {len(nothing)} fit?", "none of them do")]
    assert artifact.manifest.dropped == {"empty_text": len(nothing)}


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "huggingface", "json", "xlsx"])
def test_the_same_rows_in_every_format(inline: None, tmp_path: Path, form: str):
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    small = ("How small is 10\u207b\u00b3 m?", "It is \u00bd of 2\u00b710\u207b\u00b3 m, \u2122 or not")
    rows = [
        {"question": small[0], "answer": small[1]},
        {"question": "`<div>` or `<span>`?", "answer": "When a<b and c>d: &amp; stays"},
        {"question": "Na\u00efve cafe\u0301?", "answer": "Full  width \uff21, \ufb01ne; two\nlines"},
        *({"question": f"Which {n}?", "answer": f"Answer {n}"} for n in range(12)),
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    wanted = tables_of(tmp_path, {"type": "jsonl", "path": "rows.jsonl", "kind": "qa"})
    assert small in {(row["anchor"], row["positive"]) for row in wanted["pairs"]}
    assert len({row["split"] for row in wanted["pairs"]}) > 1
    if form == "csv":
        with (tmp_path / "f").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("question", "answer"), *(row.values() for row in rows)])
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f")
    elif form == "huggingface":
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(str(tmp_path / "f"))
    elif form == "xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        for values in [("question", "answer"), *(row.values() for row in rows)]:
            book.active.append(list(values))
        book.save(tmp_path / "f")
    else:
        (tmp_path / "f").write_text(json.dumps(rows) if form == "json" else (tmp_path / "rows.jsonl").read_text())
    place = {"parquet": {"files": [{"path": "f", "kind": "qa"}]}, "huggingface": {"dataset": "f", "kind": "qa"}}
    assert tables_of(tmp_path, {"type": form, **place.get(form, {"path": "f", "kind": "qa"})}) == wanted


def tables_of(tmp_path: Path, source: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    recipe = {"root": str(tmp_path), "sources": [{**source, "name": "same"}], "overwrite": True}
    artifact = build({**recipe, "split": {"train": 0.5, "dev": 0.25, "test": 0.25}}, tmp_path / "run")
    return {name: table(artifact, name) for name in ("corpus", "queries", "qrels", "pairs")}
