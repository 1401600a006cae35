"""The same rows in other layouts, dialects and spellings: the right records, or one line with the way to mend it."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from tests.pipeline.sources.test_cases import pairs, read
from tests.support.corpora import inline, table, write_jsonl

__all__ = ["inline"]
PAIRS = [("What?", "This one"), ("Who?", "Bob it is")]
TABLES: dict[str, Any] = {
    "columns by number": {"question": {"0": "What?", "1": "Who?"}, "answer": {"0": "This one", "1": "Bob it is"}},
    "columns as lists": {"question": ["What?", "Who?"], "answer": ["This one", "Bob it is"]},
    "split": {"columns": ["question", "answer"], "index": [0, 1], "data": [list(row) for row in PAIRS]},
    "rows by id": {f"q{n}": {"question": q, "answer": a} for n, (q, a) in enumerate(PAIRS)},
}


@pytest.mark.parametrize("layout", TABLES)
def test_tables_as_pandas_writes_them_to_json(inline: None, tmp_path: Path, layout: str):
    (tmp_path / "a.json").write_text(json.dumps(TABLES[layout]), encoding="utf-16" if layout == "split" else "utf-8")
    artifact = read(tmp_path, {"type": "json", "path": "a.json", "kind": "qa"})
    assert pairs(artifact) == PAIRS
    assert artifact.manifest.notes["input_rows"][0]["read"] == 2
    if layout == "rows by id":
        assert {row["anchor_id"] for row in table(artifact, "pairs")} == {"q0", "q1"}


def test_one_row_of_objects_or_of_single_lists_is_no_table(inline: None, tmp_path: Path):
    row = {"query": {"text": "tea", "lang": "en"}, "positive": {"text": "a drink", "lang": "en"}}
    (tmp_path / "a.json").write_text(json.dumps(row))
    fields = {"anchor": "query.text", "positive": "positive.text"}
    artifact = read(tmp_path, {"type": "json", "path": "a.json", "kind": "pair", "fields": fields})
    assert pairs(artifact) == [("tea", "a drink")]
    row = {"query": "tea", "pos": ["a drink", "a plant"], "neg": ["mud", "sand"]}
    (tmp_path / "a.json").write_text(json.dumps(row))
    artifact = read(tmp_path, {"type": "json", "path": "a.json", "kind": "pair"}, overwrite=True)
    assert pairs(artifact) == [("tea", "a drink"), ("tea", "a plant")]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_labels_of_a_pair_contradict_whatever_its_case_and_order(inline: None, tmp_path: Path, form: str):
    rows = [
        {"left": "How far?", "right": "What distance?", "score": 1.0},
        {"left": "what distance?", "right": "HOW far?", "score": 0.0},
        {"left": "How old?", "right": "What age?", "score": 1.0},
        {"left": "how old?", "right": "What age?", "score": 1.0},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    source: dict[str, Any] = {"type": "jsonl", "path": "a.jsonl", "kind": "labelled"}
    if form == "parquet":
        source = {"type": "parquet", "files": [{"path": "a.parquet", "kind": "labelled"}]}
    artifact = read(tmp_path, source)
    assert [(row["left"], row["right"]) for row in table(artifact, "labelled")] == [("How old?", "What age?")]
    assert artifact.manifest.dropped == {"contradicting_labels": 2, "duplicate_labelled": 1}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_categories_and_tags_lose_entities_as_texts_do(inline: None, tmp_path: Path, form: str):
    rows = [
        {"id": "1", "title": "Saw", "category": "Home &amp; Garden &gt; Tools", "tags": "R&amp;D, wood"},
        {"id": "2", "title": "Axe", "category": "R&D > Tools", "tags": "M&S"},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    source: dict[str, Any] = {"type": "jsonl", "path": "a.jsonl", "kind": "product"}
    if form == "parquet":
        source = {"type": "parquet", "files": [{"path": "a.parquet", "kind": "product"}]}
    artifact = read(tmp_path, source)
    found = [(row["category"], row["tags"]) for row in table(artifact, "corpus")]
    assert found == [("Home & Garden > Tools", ["R&D", "wood"]), ("R&D > Tools", ["M&S"])]


def test_columns_of_one_name_are_told_apart(inline: None, tmp_path: Path):
    (tmp_path / "a.csv").write_text("question,answer,answer,\nHow tall?,Two metres,Three feet,x\n")
    source = {"type": "csv", "path": "a.csv", "kind": "qa"}
    artifact = read(tmp_path, source)
    assert pairs(artifact) == [("How tall?", "Two metres")]
    assert artifact.manifest.notes["unread_columns"] == {"csv": ["answer_(2)", "column_4"]}
    artifact = read(tmp_path, {**source, "fields": {"positive": "answer (2)"}}, overwrite=True)
    assert pairs(artifact) == [("How tall?", "Three feet")]


def test_an_export_of_shopify_that_a_spreadsheet_saved_with_semicolons(inline: None, tmp_path: Path):
    header = "\ufeffHandle;Title;Body (HTML);Option1 Name;Option1 Value"
    (tmp_path / "a.csv").write_text(f"{header}\npot;Pot;<p>Holds, soil</p>;Color;Red\npot;;;;Blue\n")
    artifact = read(tmp_path, {"type": "shopify", "path": "a.csv"})
    assert [row["text"] for row in table(artifact, "corpus")] == ["Pot. Holds, soil | Color: Red, Blue"]


def test_characters_that_xml_forbids_cost_no_row_of_a_dump(inline: None, tmp_path: Path):
    rows = [
        '<row Id="1" PostTypeId="1" AcceptedAnswerId="2" Title="Switch &#xD800;\x0etabs&#xFFFE;?" Body="x" />',
        '<row Id="2" PostTypeId="2" ParentId="1" Score="4" Body="Press &#xDFFF;Cmd &#x1F600;" />',
    ]
    (tmp_path / "Posts.xml").write_text("<?xml version='1.0'?>\n<posts>\n" + "\n".join(rows) + "\n</posts>\n")
    artifact = read(tmp_path, {"type": "stackexchange", "path": "Posts.xml"})
    assert pairs(artifact) == [("Switch tabs?", "Press Cmd \U0001f600")]


def tar(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        content = json.dumps({"question": "What?", "answer": "This"}).encode()
        info = tarfile.TarInfo("a.jsonl")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def test_files_of_another_kind_say_what_they_are(inline: None, tmp_path: Path):
    tar(tmp_path / "a.tar.gz")
    write_jsonl(tmp_path / "a.jsonl", [{"question": "What?", "answer": "This"}])
    (tmp_path / "meta.json").write_text('[\n {"asin": "B1", "title": "Balm"}\n]')
    (tmp_path / "scores.csv").write_text("sentence1;sentence2;score\na b;c d;0,5\n")
    (tmp_path / "u.jsonl.gz").write_bytes(gzip.compress('{"question": "What?", "answer": "This"}'.encode("utf-16")))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"type": "jsonl", "path": "a.tar.gz", "kind": "qa"}, "a tar archive; unpack it"),
        ({"type": "csv", "path": "a.jsonl", "kind": "qa"}, "holds JSON, not a table; use `type: jsonl`"),
        ({"type": "amazon", "path": "meta.json"}, "is one array; write an object a line"),
        ({"type": "csv", "path": "scores.csv", "kind": "labelled"}, "'0,5', with a comma; write numbers with a point"),
        ({"type": "jsonl", "path": "u.jsonl.gz", "kind": "qa"}, "is UTF-16 or UTF-32 by its first bytes"),
    ]
    for source, message in cases:
        with pytest.raises(UserError, match=message):
            read(tmp_path, source)
