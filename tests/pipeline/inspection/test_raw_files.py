"""A raw file: its columns and their shapes are named, and the recipe that is printed is one that a build accepts."""

import csv
import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.core.errors import UserError
from pipeline.inspection.column_profile import profile, shape_of
from pipeline.inspection.raw_file import is_raw, read_sample
from pipeline.inspection.suggest import suggest
from scripts.tripletail.commands import inspect
from tests.support.corpora import build, inline  # noqa: F401  a fixture

TOPICS = ["kettle", "lamp", "mug", "scarf", "bicycle", "hose", "chair", "desk", "spoon", "radio", "violin", "tent"]
QA = [{"Question": f"How do I clean a {t}?", "Answer": f"Wash the {t} with warm water.", "Votes": "3"} for t in TOPICS]
LABELLED = [[f"A {t} is here.", f"Here is a {t}.", str(n % 6)] for n, t in enumerate(TOPICS)]
PRODUCTS = [
    {"sku": f"p{n}", "title": f"Red {t}", "description": f"A fine {t}, <b>red</b>."} for n, t in enumerate(TOPICS)
]
RSS = """<?xml version="1.0"?><rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title>{}
</channel></rss>"""
ITEM = "<item><g:id>{0}</g:id><title>Red {1}</title><link>https://x.y/z</link><description>A {1}.</description></item>"


def rows_to_csv(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def question_table(folder: Path) -> Path:
    rows_to_csv(folder / "faq.csv", QA, ";")
    return folder / "faq.csv"


def headless_pairs(folder: Path) -> Path:
    with (folder / "sts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(LABELLED)
    return folder / "sts.csv"


def packed_json_lines(folder: Path) -> Path:
    lines = "\n".join(json.dumps({"query": row["Question"], "pos": [row["Answer"]], "neg": ["No."]}) for row in QA)
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder / "train.jsonl.gz"


def wrapped_json(folder: Path) -> Path:
    articles = [{"id": n, "title": t, "content": f"All about the {t}."} for n, t in enumerate(TOPICS)]
    (folder / "export.json").write_text(json.dumps({"version": 1, "articles": articles}, indent=1))
    return folder / "export.json"


def json_array(folder: Path) -> Path:
    (folder / "array.json").write_text(json.dumps([{"question": q["Question"], "answer": q["Answer"]} for q in QA]))
    return folder / "array.json"


def parquet_products(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(PRODUCTS), folder / "products.parquet")
    return folder / "products.parquet"


def feed(folder: Path) -> Path:
    (folder / "feed.xml").write_text(RSS.format("".join(ITEM.format(f"p{n}", t) for n, t in enumerate(TOPICS))))
    return folder / "feed.xml"


def unknown_names(folder: Path) -> Path:
    rows_to_csv(
        folder / "x.csv", [{"nr": str(n), "inhalt": f"Dies ist der Text von {t}."} for n, t in enumerate(TOPICS)]
    )
    return folder / "x.csv"


def beir_folder(folder: Path) -> Path:
    (folder / "beir" / "qrels").mkdir(parents=True)
    numbered = list(enumerate(QA))
    corpus = [{"_id": f"d{n}", "title": "", "text": row["Answer"]} for n, row in numbered]
    queries = [{"_id": f"q{n}", "text": row["Question"]} for n, row in numbered]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / "beir" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n}\t1" for n, _ in numbered)]
    (folder / "beir" / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder / "beir"


SHAPES = {
    question_table: ("csv", {"qa"}),
    headless_pairs: ("csv", {"labelled"}),
    packed_json_lines: ("jsonl", {"pair"}),
    wrapped_json: ("json", {"document"}),
    json_array: ("json", {"qa"}),
    parquet_products: ("parquet", {"product"}),
    feed: ("google_merchant", {None}),
    unknown_names: ("csv", {"document"}),
    beir_folder: ("beir", {None}),
}


def printed_recipe(path: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    """The recipe at the end of what the command prints, as one copies it."""
    inspect.main([str(path)])
    printed = capsys.readouterr().out
    return yaml.safe_load(printed[printed.index("run: runs/mine") :])


@pytest.mark.parametrize("write", SHAPES, ids=lambda write: write.__name__)
def test_the_printed_recipe_builds(inline, tmp_path, capsys, write):  # noqa: F811
    recipe = printed_recipe(write(tmp_path), capsys)
    (source,) = recipe["build"]["sources"]
    kinds = {item.get("kind") for item in source.get("files", [source])}
    assert (source["type"], kinds) == SHAPES[write]
    data = build(recipe["build"], tmp_path / "run")
    rows = {name: table.rows for name, table in data.manifest.tables.items()}
    assert rows.get("labelled") == 12 or rows["corpus"] >= 12
    assert not data.manifest.dropped.get("unreadable_row")


@pytest.mark.parametrize(
    "path",
    [
        "amazon/meta_Gift_Cards.sample150.jsonl",
        "amazon/qa_Appliances.sample150.json",
        "beir/dbpedia_5k",
        "converted_esci_shape",
        "converted_wands_shape",
        "ditto_colval/abt_buy.valid.txt",
        "shopify_csv/apparel.csv",
        "squad_json/200423_covidQA.json",
        "stackexchange/Posts.xml",
        "stsb_csv/stsb-en-dev.csv",
    ],
)
def test_published_files(inline, shared_data, tmp_path, capsys, path):  # noqa: F811
    recipe = printed_recipe(shared_data / "formats" / path, capsys)
    data = build(recipe["build"], tmp_path / "run")
    assert sum(table.rows for table in data.manifest.tables.values()) > 10


MISSING = {"quepid_csv/rated.csv": "documents", "wands/query.csv": "documents and judgments"}


@pytest.mark.parametrize(("path", "missing"), MISSING.items())
def test_what_another_source_must_bring_is_said(shared_data, path, missing):
    first = suggest(read_sample(str(shared_data / "formats" / path)))[0]
    assert first.needs == missing and f"# and a source of the {missing}" in first.recipe()
    assert yaml.safe_load(first.recipe())["build"]["sources"] == [first.settings]


def test_columns_shapes_and_empty_cells(tmp_path):
    rows = [
        {"id": n, "text": "a text" if n % 4 else " ", "tags": ["a"], "more": {"x": 1}, "ok": True} for n in range(8)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = {column.name: column for column in profile(read_sample(str(tmp_path / "a.jsonl")))}
    assert {name: list(column.shapes) for name, column in found.items()} == {
        "id": ["number"],
        "text": ["text"],
        "tags": ["list of text"],
        "more": ["object of x"],
        "ok": ["yes or no"],
    }
    assert found["text"].empty == 0.25 and found["id"].empty == 0.0 and found["text"].length == 6
    assert [shape_of(value) for value in ("1.5", "true", "<p>x</p>", [], [1, "a"], None)] == [
        "number, as text",
        "yes or no, as text",
        "HTML",
        "empty list",
        "list of number or text",
        "NoneType",
    ]


def test_excel_and_archives_are_shown_with_a_recipe(tmp_path, capsys):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [list(QA[0]), *(list(row.values()) for row in QA)]:
        book.active.append(row)
    book.save(tmp_path / "faq.xlsx")
    inspect.main([str(tmp_path / "faq.xlsx"), "--rows", "1"])
    printed = capsys.readouterr().out
    assert "xlsx, 3 columns" in printed and "How do I clean a kettle?" in printed and "type: xlsx" in printed
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("__MACOSX/._faq.csv", "x")
        archive.write(question_table(tmp_path), "inside/faq.csv")
    inspect.main([str(tmp_path / "data.zip"), "--rows", "0"])
    printed = capsys.readouterr().out
    assert "inside/faq.csv" in printed and "Question" in printed and "type: csv" in printed
    assert "__MACOSX" not in printed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b" \n", "is empty"),
        ("broken.json", b"[{", "not JSON"),
        ("broken.parquet", b"PAR1 and no more", "not readable as Parquet"),
        ("broken.xlsx", b"PK\x03\x04[Content_Types].xml", "not readable"),
        ("broken.zip", b"PK\x03\x04 and no more", "not readable"),
        ("broken.xml", b"<posts", "not readable as XML"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit) as left:
        inspect.main([str(tmp_path / name)])
    printed = capsys.readouterr()
    assert left.value.code == 2 and message in printed.err + printed.out and "Traceback" not in printed.err


def test_an_artifact_is_no_raw_folder(tmp_path):
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "data" / "manifest.json").write_text("{}")
    assert not is_raw(str(tmp_path / "run")) and not is_raw(str(tmp_path / "run" / "data"))
    assert is_raw(str(beir_folder(tmp_path))) and not is_raw(str(tmp_path / "none"))
    with pytest.raises(UserError, match="no such file"):
        read_sample(str(tmp_path / "none"))


def test_a_member_that_unpacks_without_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.inspection.raw_file._MAX_READ_BYTES", 1 << 16)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.csv", "a,b\n" + "0,0\n" * 100_000)
    sample = read_sample(str(tmp_path / "bomb.zip"))
    assert sample.files == ("zeros.csv",) and not sample.rows
