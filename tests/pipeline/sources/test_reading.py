"""Every source format: what rows become, and that nothing is lost on the way without a count."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.sources.beir import Beir
from pipeline.sources.huggingface import HuggingFace
from pipeline.sources.jsonl import JsonLines
from pipeline.sources.parquet import Parquet
from pipeline.sources.reading.mapping import Mapping
from pipeline.sources.stackexchange import StackExchange, grade, tags
from tests.support.corpora import records

POSTS = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="1" PostTypeId="1" AcceptedAnswerId="3" Score="5" Title="How to store beans?" \
Body="&lt;p&gt;Cold &amp;amp; dry?&lt;/p&gt;" Tags="&lt;storage&gt;&lt;whole-bean&gt;" />
  <row Id="2" PostTypeId="2" ParentId="1" Score="7" Body="&lt;p&gt;In a jar.&lt;/p&gt;&#xA;&lt;p&gt;Dark.&lt;/p&gt;" />
  <row Id="3" PostTypeId="2" ParentId="1" Score="1" Body="Freeze &lt;b&gt;them&lt;/b&gt;" />
  <row Id="4" PostTypeId="2" ParentId="1" Score="-2" Body="Eat them" />
  <row Id="5" PostTypeId="2" ParentId="1" Score="0" Body="broken" Tags="<a>" />
  <row Id="6" PostTypeId="1" Score="0" Title="Nobody knows" Body="" Tags="|a|b|" />
  <row Id="7" PostTypeId="5" Body="wiki" />
  <row Id="x" PostTypeId="2" ParentId="1" Body="no number" />
  rubbish between rows
</posts>
"""


def without_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "order"} for row in rows]


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    (tmp_path / "Posts.xml").write_text(POSTS, encoding="utf-8")
    return tmp_path


def test_stackexchange_rows(posts: Path):
    kinds, tally = records(StackExchange(path="Posts.xml"), posts)
    assert [(row["id"], row["text"], row["group"], row["tags"]) for row in kinds["queries"]] == [
        ("q1", "How to store beans?", "q1", ["storage", "whole-bean"]),
        ("q6", "Nobody knows", "q6", ["a", "b"]),
    ]
    assert [(row["id"], " ".join(row["text"].split())) for row in kinds["documents"]] == [
        ("a2", "In a jar. Dark."),
        ("a3", "Freeze them"),
        ("a4", "Eat them"),
    ]
    assert [(row["query_id"], row["doc_id"], row["relevance"], row["reason"]) for row in kinds["judgments"]] == [
        ("q1", "a3", 3, "accepted answer"),
        ("q1", "a2", 2, "answer score 7"),
        ("q1", "a3", 1, "answer score 1"),
        ("q1", "a4", 0, "answer score -2"),
    ]
    assert tally.dropped == {"unreadable_row": 3, "other_post_type": 1}
    assert tally.examples["unreadable_row"][0].startswith("Posts.xml:7 broken XML: ")
    assert tally.examples["unreadable_row"][1].startswith("Posts.xml:10 attribute missing or not a number")
    assert tally.examples["unreadable_row"][2].startswith("Posts.xml:11 not a <row>")
    assert tally.counts["rows"] == 9


def test_stackexchange_body_joins_the_query(posts: Path):
    kinds, _ = records(StackExchange(path="Posts.xml", body=True, prefix="c-"), posts)
    assert kinds["queries"][0]["text"].split() == ["How", "to", "store", "beans?", "Cold", "&", "dry?"]
    assert {row["query_id"] for row in kinds["judgments"]} == {"c-q1"}


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 300, 1000])
def test_any_byte_ranges_give_the_same_rows(posts: Path, block_bytes: int):
    source = StackExchange(path="Posts.xml")
    whole, tally = records(source, posts)
    pieces, pieces_tally = records(source, posts, block_bytes)
    assert pieces == whole
    assert pieces_tally == tally


@pytest.mark.parametrize(("text", "found"), [("<a><b-c>", ["a", "b-c"]), ("|a|b-c|", ["a", "b-c"]), ("", [])])
def test_tags_of_old_and_new_dumps(text: str, found: list[str]):
    assert tags(text) == found


def test_grades_of_answers():
    assert [grade(score) for score in (-1, 0, 2, 3, 40)] == [0, 1, 1, 2, 2]


def test_a_page_is_no_dump(tmp_path: Path):
    (tmp_path / "Posts.xml").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    with pytest.raises(UserError, match=r"Posts\.xml: is not a Posts.xml of Stack Exchange: it starts with '<!DOCTYPE"):
        StackExchange(path="Posts.xml").blocks(str(tmp_path), 0, 100)


PRODUCTS = [
    {
        "id": 7,
        "title": "Mug",
        "description": "<p>Blue &amp; big</p>",
        "category": "Home > Kitchen>Mugs",
        "attributes": {"volume": "0.3 l", "none": None},
    },
    {"id": "8", "title": "Lamp", "description": ["Warm", "light"], "category": ["Home", " Light "], "tags": ["a", "b"]},
]
BAD_LINES = ["{broken", "[1, 2]", '{"id": "9"}', "", '{"id": "10", "title": "\\ud800Cup"}']


@pytest.fixture
def products(tmp_path: Path) -> Path:
    lines = [json.dumps(row) for row in PRODUCTS] + BAD_LINES
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\n\xff\xfe\n")
    with gzip.open(tmp_path / "p.jsonl.gz", "wb") as file:
        file.write((tmp_path / "p.jsonl").read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "*.jsonl"])
def test_products(products: Path, name: str):
    kinds, tally = records(JsonLines(path=name, kind="product"), products)
    assert [(row["id"], row["text"], row["category"], row["tags"]) for row in kinds["documents"]] == [
        ("7", "Mug. Blue & big | volume: 0.3 l", "Home > Kitchen > Mugs", []),
        ("8", "Lamp. Warm light", "Home > Light", ["a", "b"]),
        ("10", "Cup", None, []),
    ]
    assert all(row["product"] for row in kinds["documents"])
    assert tally.dropped == {"unreadable_row": 3, "missing_field": 1}
    assert [example.split(":", 1)[1] for example in tally.examples["missing_field"]] == [
        "5 no field 'description' or 'product_description' or 'short_description' for text; it has id"
    ]


@pytest.mark.parametrize("block_bytes", [1, 20, 100])
def test_byte_ranges_of_json_lines(products: Path, block_bytes: int):
    source = JsonLines(path="p.jsonl", kind="product")
    assert records(source, products, block_bytes) == records(source, products)


def test_templates(products: Path):
    kinds, _ = records(JsonLines(path="p.jsonl", kind="product", template="{category}: {title}"), products)
    assert kinds["documents"][0]["text"] == "Home > Kitchen > Mugs: Mug"
    with pytest.raises(ValueError, match=r"a template is made of \{title\}, \{text\}"):
        JsonLines(path="p.jsonl", template="{brand}")
    with pytest.raises(ValueError, match="is not a template"):
        JsonLines(path="p.jsonl", template="{title")


def test_questions_with_several_answers(tmp_path: Path):
    rows = [
        {"id": "f1", "question": "Open on Sunday?", "answers": ["No.", {"text": "Only in May."}]},
        {"question": "Where?", "answer": "Here."},
    ]
    (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, rows)))
    kinds, _ = records(JsonLines(path="faq.jsonl", kind="qa", name="faq"), tmp_path)
    texts = {row["id"]: row["text"] for row in [*kinds["queries"], *kinds["documents"]]}
    assert [(texts[row["query_id"]], texts[row["doc_id"]]) for row in kinds["judgments"]] == [
        ("Open on Sunday?", "No."),
        ("Open on Sunday?", "Only in May."),
        ("Where?", "Here."),
    ]
    assert kinds["queries"][0]["id"] == "f1"


def test_unknown_roles_and_fields_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="kind query has no role 'title'; choose from id, text"):
        Mapping(kind="query", fields={"title": "name"})
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "t.parquet")
    source = Parquet.model_validate({"files": [{"path": "t.parquet", "kind": "query", "fields": {"text": "b"}}]})
    with pytest.raises(UserError, match=r"t\.parquet: has no column 'b' for text; it has a"):
        source.blocks(str(tmp_path), 0, 100)


def test_labels_become_grades(tmp_path: Path):
    columns = {"query_id": [1] * 5, "product_id": ["a", "b", "c", "d", "e"], "esci_label": ["E", "I", "2", "?", "e"]}
    splits = ["train", "validation", "test", "test", "x"]
    pq.write_table(pa.table({**columns, "split": splits}), tmp_path / "esci.parquet")
    file = {"path": "esci.parquet", "kind": "judgment", "grades": {"E": 3, "I": 0}}
    file |= {"fields": {"relevance": "esci_label", "split": "split"}}
    kinds, tally = records(Parquet.model_validate({"files": [file]}), tmp_path)
    found = [(row["query_id"], row["doc_id"], row["relevance"], row["split"]) for row in kinds["judgments"]]
    assert found == [("1", "a", 3, "train"), ("1", "b", 0, "dev"), ("1", "c", 2, "test")]
    assert tally.dropped == {"unreadable_row": 1, "unknown_split": 1}
    assert tally.examples["unreadable_row"] == [
        "esci.parquet:4 esci_label is '?', not a number; say what it counts by `grades`, as {yes: 1, no: 0}"
    ]
    assert tally.examples["unknown_split"] == [
        "esci.parquet:5 split 'x' is none of train, dev, test; say what it stands for, as `splits: {x: test}` "
        "(or hash: assigned by hash)"
    ]


def test_parquet_folder(tmp_path: Path):
    corpus = {"doc_id": ["d1", "d2"], "title": ["T", ""], "text": ["one", "two"], "category": ["c", None]}
    pq.write_table(pa.table(corpus), tmp_path / "corpus.parquet", row_group_size=1)
    for split, query in (("train", "q1"), ("dev", "q2")):
        pq.write_table(pa.table({"query_id": [query], "text": ["ask"]}), tmp_path / f"queries.{split}.parquet")
        judged = {"query_id": [query], "doc_id": ["d1"], "relevance": pa.array([2], pa.int32())}
        pq.write_table(pa.table(judged), tmp_path / f"qrels.{split}.parquet")
    source = Parquet(path=".", group="title")
    kinds, tally = records(source, tmp_path, block_bytes=1)
    found = [(row["id"], row["text"], row.get("category"), row.get("group")) for row in kinds["documents"]]
    assert found == [("d1", "T. one", "c", "T"), ("d2", "two", None, None)]
    assert [(row["id"], row["split"]) for row in kinds["queries"]] == [("q1", "train"), ("q2", "dev")]
    assert [(row["query_id"], row["relevance"], row["split"]) for row in kinds["judgments"]] == [
        ("q1", 2, "train"),
        ("q2", 2, "dev"),
    ]
    assert len(source.blocks(str(tmp_path), 0, 1)) == 6 and kinds == records(source, tmp_path)[0]
    assert tally.dropped == {}


def test_scored_sentences(tmp_path: Path):
    rows = {"sentence1": ["a", "c"], "sentence2": ["b", "d"], "score": [5.0, None]}
    pq.write_table(pa.table(rows), tmp_path / "sts.train.parquet")
    kinds, tally = records(Parquet(path=".", tables=["sts"], splits=["train"], scale=5), tmp_path)
    assert without_order(kinds["labelled"]) == [{"left": "a", "right": "b", "score": 1.0, "split": "train"}]
    assert tally.dropped == {"missing_field": 1}


def test_files_that_are_not_parquet(tmp_path: Path):
    (tmp_path / "x.parquet").write_text("<html>")
    for path, message in (("x.parquet", "not readable as Parquet"), ("y.parquet", "no such file")):
        with pytest.raises(UserError, match=f"source {path}: {message}"):
            Parquet.model_validate({"files": [{"path": path}]}).blocks(str(tmp_path), 0, 100)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "<d 1>", "title": "T", "text": "x", "metadata": {}}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "ask"}\n{"_id": "q2", "text": "beg"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t<d 1>\t2\nq1\tonly two\n")
    (tmp_path / "qrels" / "extra.tsv").write_text("q2 0 d9 1\n")
    return tmp_path


def test_beir_folder(beir: Path):
    kinds, tally = records(Beir(path=".", splits={"extra": "hash"}), beir)
    assert [(row["id"], row["text"]) for row in kinds["documents"]] == [("<d 1>", "T. x")]
    assert [row["id"] for row in kinds["queries"]] == ["q1", "q2"]
    found = [(row["query_id"], row["doc_id"], row["relevance"], row["split"]) for row in kinds["judgments"]]
    assert found == [("q2", "d9", 1, None), ("q1", "<d 1>", 2, "test")]
    assert tally.dropped == {"unreadable_row": 1}
    assert tally.examples["unreadable_row"] == ["test.tsv:3 not a judgment: 2 columns, wanted 3 or 4"]


def test_beir_splits(beir: Path):
    assert records(Beir(path=".", hashed=True), beir)[0]["judgments"][1]["split"] is None
    assert records(Beir(path=".", splits={"extra": "dev"}), beir)[0]["judgments"][0]["split"] == "dev"
    with pytest.raises(UserError, match="name of a qrels file 'extra' is none of train, dev, test; say what it stands"):
        Beir(path=".").blocks(str(beir), 0, 100)
    with pytest.raises(UserError, match=r"has no qrels/dev\.tsv"):
        Beir(path=".", splits={"dev": "dev"}).blocks(str(beir), 0, 100)
    with pytest.raises(UserError, match="is not a BEIR folder"):
        Beir(path="qrels").blocks(str(beir), 0, 100)


def test_local_data_sets_are_streamed(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    rows = [{"question": f"Question {n}?", "answer": f"Answer {n}."} for n in range(4)]
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "saved"))
    for name in ("files", "saved"):
        kinds, tally = records(HuggingFace(dataset=name, kind="qa", forced=True), tmp_path)
        assert [row["text"] for row in kinds["queries"]] == [row["question"] for row in rows]
        assert [row["text"] for row in kinds["documents"]] == [row["answer"] for row in rows]
        assert {row["split"] for row in kinds["queries"]} == {"train"} and not tally.dropped
    with pytest.raises(UserError, match="source files: cannot open split 'dev'"):
        HuggingFace(dataset="files", parts=["dev"]).blocks(str(tmp_path), 0, 100)
    with pytest.raises(UserError, match="has no column 'q' for anchor"):
        HuggingFace(dataset="files", fields={"anchor": "q"}).blocks(str(tmp_path), 0, 100)
