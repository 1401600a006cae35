"""Every published format becomes the right artifact by recipe alone: small slices row by row, then the real files."""

import bz2
import csv
import gzip
import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.core.errors import UserError
from pipeline.sources.amazon import Amazon, literal
from pipeline.sources.csv import Csv
from pipeline.sources.debian import Debian
from pipeline.sources.ditto import Ditto
from pipeline.sources.esci import Esci
from pipeline.sources.jsonl import JsonLines
from pipeline.sources.parquet import Parquet
from pipeline.sources.shopify import Shopify
from pipeline.sources.squad import Squad, articles, passages
from pipeline.sources.stackexchange import StackExchange
from pipeline.sources.stackexchange_links import links
from pipeline.sources.wands import Wands
from pipeline.text.normalize import normalise
from tests.support.corpora import Recipe, build, inline, records, table  # noqa: F401  a fixture


def picked(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row.get(name) for name in names) for row in rows]


def write_lines(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_patterns_and_lists_of_files(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    packers = {"b.jsonl.gz": gzip.compress, "c.jsonl.bz2": bz2.compress, "d.jsonl.xz": lzma.compress}
    packers["sub/e.jsonl.zst"] = lambda raw: pa.compress(raw, codec="zstd", asbytes=True)
    for name, pack in {"a.jsonl": bytes, **packers}.items():
        (tmp_path / name).write_bytes(pack(json.dumps({"id": name, "text": f"text of {name}"}).encode()))
    source = JsonLines(path=["sub/*.zst", "a.jsonl", "?.jsonl*"])
    kinds, tally = records(source, tmp_path)
    assert picked(kinds["documents"], "id") == [
        ("sub/e.jsonl.zst",),
        ("a.jsonl",),
        ("b.jsonl.gz",),
        ("c.jsonl.bz2",),
        ("d.jsonl.xz",),
    ]
    assert len({row["order"] for row in kinds["documents"]}) == 5 and not tally.dropped
    assert list(source.inputs(str(tmp_path))) == [
        "sub/*.zst#e.jsonl.zst",
        "a.jsonl",
        "?.jsonl*#b.jsonl.gz",
        "?.jsonl*#c.jsonl.bz2",
        "?.jsonl*#d.jsonl.xz",
    ]
    with pytest.raises(UserError, match=r"source none-\*: no file matches"):
        JsonLines(path=["a.jsonl", "none-*"]).inputs(str(tmp_path))
    with pytest.raises(ValidationError):
        JsonLines(path=[])


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz", ".zst"])
def test_the_content_says_whether_a_file_is_packed(tmp_path: Path, end: str):
    (tmp_path / f"a.jsonl{end}").write_bytes(b'{"id": "a", "text": "t"}\n<html>no archive</html>\n')
    kinds, tally = records(JsonLines(path=f"a.jsonl{end}"), tmp_path)
    assert [row["text"] for row in kinds["documents"]] == ["t"]
    assert dict(tally.dropped) == {"unreadable_row": 1}


def test_parquet_by_pattern(tmp_path: Path):
    for number in range(3):
        pq.write_table(pa.table({"id": [f"d{number}"], "text": [f"text {number}"]}), tmp_path / f"p{number}.parquet")
    source = Parquet.model_validate({"files": [{"path": "p[02].parquet"}, {"path": ["p1.parquet"], "kind": "query"}]})
    kinds, _ = records(source, tmp_path)
    assert picked(kinds["documents"], "id") == [("d0",), ("d2",)]
    assert picked(kinds["queries"], "id", "text") == [("d1", "text 1")]


def test_object_store(tmp_path: Path):
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe("/shop/faq-1.csv", b"question,answer\nHow?,So.\n")
    fs.pipe("/shop/faq-2.csv", b"question,answer\nWhy?,Because.\n")
    kinds, _ = records(Csv(path="memory://shop/faq-*.csv", kind="qa"), tmp_path)
    assert picked(kinds["queries"], "text") == [("How?",), ("Why?",)]


FAQ = 'Question;Answer;Topic\n"How, ""exactly""?";"Line one\nline two";a\nWhy?;Because;b\nshort;row\nx;y;z;more\n'


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", ""), ("utf-8-sig", ""), ("utf-16", ""), ("utf-16-le", "\ufeff")]
)
def test_csv_of_any_encoding_with_quotes(tmp_path: Path, encoding: str, mark: str):
    (tmp_path / "faq.csv").write_bytes((mark + FAQ.replace("Why", "Wh\u00fd")).encode(encoding))
    kinds, tally = records(Csv(path="faq.csv", kind="qa", fields={"group": "Topic"}), tmp_path)
    assert picked(kinds["queries"], "text", "group") == [('How, "exactly"?', "a"), ("Wh\u00fd?", "b")]
    assert picked(kinds["documents"], "text") == [("Line one\nline two",), ("Because",)]
    assert tally.dropped == {"unreadable_row": 2} and tally.counts["rows"] == 4
    assert tally.examples["unreadable_row"] == [
        "faq.csv:5 2 columns, the header has 3",
        "faq.csv:6 4 columns, the header has 3",
    ]


def test_csv_bytes_of_another_encoding(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes("id,text\n1,caf\u00e9\n2,tea\n".encode("cp1252"))
    kinds, tally = records(Csv(path="a.csv"), tmp_path)
    assert picked(kinds["documents"], "text") == [("tea",)]
    assert "name it by `encoding`" in tally.examples["unreadable_row"][0]
    assert picked(records(Csv(path="a.csv", encoding="cp1252"), tmp_path)[0]["documents"], "text") == [
        ("caf\u00e9",),
        ("tea",),
    ]
    for wrong in ("klingon", "base64"):
        with pytest.raises(ValidationError, match="is no encoding of text"):
            Csv(path="a.csv", encoding=wrong)


@pytest.fixture
def lifted():
    """The limit of a cell as other libraries leave it behind."""
    held = csv.field_size_limit(1 << 30)
    yield
    csv.field_size_limit(held)


def test_an_unclosed_quote_does_not_take_the_file(tmp_path: Path, lifted: None):
    rows = [f'{n},"text {n} {"x" * 200}"' for n in range(3000)]
    rows[5] = '5,"never closed'
    write_lines(tmp_path / "a.csv", "id,text", *rows)
    kinds, tally = records(Csv(path="a.csv"), tmp_path)
    assert [int(row["id"]) for row in kinds["documents"]] == [n for n in range(3000) if n != 5]
    assert tally.dropped == {"unreadable_row": 1}
    assert tally.examples["unreadable_row"][0].startswith("a.csv:7 not CSV: ")
    write_lines(
        tmp_path / "a.csv", "id,text", "0,first", '1,"never closed', *(f"{n},text {'x' * 200}" for n in range(3000))
    )
    kinds, tally = records(Csv(path="a.csv"), tmp_path)
    assert len(kinds["documents"]) > 2000 and tally.dropped == {"unreadable_row": 1}


def test_catalogue_of_columns(tmp_path: Path):
    write_lines(
        tmp_path / "goods.csv",
        "SKU,Product Title,Description,Category,Brand,Colour",
        "s1,Mug,<p>A &amp; B</p>,Home > Kitchen,Acme,red",
        "s2,Cup,,Home > Kitchen,,blue",
    )
    fields = {"attributes": ["Brand", "Colour"], "kind": "product"}
    kinds, _ = records(Csv.model_validate({"path": "goods.csv", **fields}), tmp_path)
    assert picked(kinds["documents"], "id", "text", "category") == [
        ("s1", "Mug. A & B | Brand: Acme; Colour: red", "Home > Kitchen"),
        ("s2", "Cup. Colour: blue", "Home > Kitchen"),
    ]
    template = "{title} ({attributes}): {text}"
    kinds, _ = records(Csv.model_validate({"path": "goods.csv", "template": template, **fields}), tmp_path)
    assert normalise(kinds["documents"][0]["text"]) == "Mug (Brand: Acme; Colour: red): A & B"
    with pytest.raises(UserError, match="has no column 'Weight' for attributes"):
        Csv.model_validate({"path": "goods.csv", **fields, "attributes": ["Weight"]}).blocks(str(tmp_path), 0, 99)


@pytest.mark.parametrize("block_bytes", [1, 9, 40, 1 << 20])
def test_tables_without_quotes_are_cut(tmp_path: Path, block_bytes: int):
    write_lines(tmp_path / "collection.tsv", *(f'{n}\tpassage "{n}' for n in range(20)))
    source = Csv(path="collection.tsv", columns=["id", "text"], delimiter="\t", quotes=False)
    kinds, tally = records(source, tmp_path, block_bytes)
    assert picked(kinds["documents"], "id", "text") == [(str(n), f'passage "{n}') for n in range(20)]
    assert len(source.blocks(str(tmp_path), 0, 40)) > 5 and not tally.dropped


def test_duplicate_links(tmp_path: Path, inline: None):  # noqa: F811
    row = '<row Id="{0}" PostTypeId="1" Score="1" Title="Question {0}" Body="Body {0}" Tags="|t|" />'.format
    write_lines(tmp_path / "Posts.xml", "<posts>", *map(row, range(1, 8)), "</posts>")
    link = '  <row Id="{}" CreationDate="2015-01-01" PostId="{}" RelatedPostId="{}" LinkTypeId="{}" />'.format
    found = [(2, 1, 3), (3, 2, 3), (6, 5, 3), (7, 1, 1), (4, 99, 3)]
    rows = [link(number, *one) for number, one in enumerate(found)]
    write_lines(tmp_path / "PostLinks.xml", "<postlinks>", *rows, '<row Id="9" PostId="1"', "</postlinks>")
    grouped = links(str(tmp_path / "PostLinks.xml"))
    assert [grouped.group(number) for number in range(1, 8)] == [1, 1, 1, 4, 5, 5, 7]
    sources = [{"type": "stackexchange", "path": "Posts.xml", "links": "PostLinks.xml"}]
    artifact = build({"root": str(tmp_path), "sources": sources}, tmp_path / "run")
    assert sorted(picked(table(artifact, "pairs"), "anchor", "positive", "group_id", "reason")) == [
        ("Question 2", "Question 1", "q1", "duplicate question"),
        ("Question 3", "Question 2", "q1", "duplicate question"),
        ("Question 6", "Question 5", "q5", "duplicate question"),
    ]
    assert sorted(picked(table(artifact, "corpus"), "doc_id")) == [("q1",), ("q2",), ("q5",)]
    dropped = artifact.manifest.dropped
    assert dropped["other_link_type"] == 1 and dropped["unreadable_row"] == 1
    assert dropped["judgment_without_document"] == 1 and dropped["unanswered_question"] == 4
    whole, _ = records(StackExchange(path="Posts.xml", links="PostLinks.xml"), tmp_path)
    pieces, _ = records(StackExchange(path="Posts.xml", links="PostLinks.xml"), tmp_path, 64)
    assert pieces == whole


def squad(*paragraphs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": "Some_Title", "paragraphs": list(paragraphs), **more}]}


def question(name: str, text: str, *starts: int) -> dict[str, Any]:
    return {"id": name, "question": text, "answers": [{"text": "x", "answer_start": start} for start in starts]}


def test_squad(tmp_path: Path):
    context = "First sentence here, of some length indeed. Second sentence, also long enough! Third one?\nFourth."
    asked = [question("1", "What is second?", 50), question("2", "Nothing?"), question("3", "Both?", 0, 51)]
    file = squad({"context": context, "qas": asked}, {"qas": []})
    (tmp_path / "a.json").write_text(json.dumps(file))
    kinds, tally = records(Squad(path="a.json", passage_chars=50), tmp_path)
    assert [normalise(row["text"]) for row in kinds["documents"]] == [
        "Some Title. First sentence here, of some length indeed.",
        "Some Title. Second sentence, also long enough! Third one?",
        "Some Title. Fourth.",
    ]
    names = [row["id"] for row in kinds["documents"]]
    assert picked(kinds["judgments"], "query_id", "doc_id") == [("1", names[1]), ("3", names[0]), ("3", names[1])]
    assert {row["group"] for row in kinds["queries"] + kinds["documents"]} == {"Some Title"}
    assert tally.dropped == {"unanswerable_question": 1, "unreadable_row": 1}


def test_passages_lose_nothing():
    text = "One. Two two two. " * 40 + "x" * 300 + ". End"
    starts = passages(text, 100)
    cut = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert "".join(cut) == text and passages(text, None) == [0]
    assert all(len(part) <= 100 or "x" * 100 in part for part in cut)


def test_squad_is_read_an_article_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.sources.squad._READ", 7)
    file = squad({"context": "caf\u00e9 \u4e16\u754c \U0001f600", "qas": []})
    file["data"] *= 5
    raw = json.dumps(file, ensure_ascii=False).encode()
    (tmp_path / "a.json").write_bytes(raw)
    assert list(articles(str(tmp_path / "a.json"))) == file["data"]
    (tmp_path / "b.json").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match="breaks off or is broken"):
        list(articles(str(tmp_path / "b.json")))


def test_squad_with_a_number_beyond_python(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"data": [{"title": %s}]}' % ("9" * 5000))
    with pytest.raises(UserError, match="breaks off or is broken"):
        list(articles(str(tmp_path / "a.json")))


def test_wands(tmp_path: Path):
    head = "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features"
    write_lines(
        tmp_path / "product.csv",
        head + "\trating_count",
        '0\tsolid wood bed\tBeds\tFurniture / Bedroom / Beds\tgood "sleep"\toverallwidth:64|color : oak|\t15.0',
        "1\tlamp\tLamps\t\t\t\t",
    )
    write_lines(tmp_path / "query.csv", "query_id\tquery\tquery_class", "0\tsalon chair\tMassage Chairs")
    write_lines(tmp_path / "label.csv", "id\tquery_id\tproduct_id\tlabel", "0\t0\t0\tExact", "1\t0\t1\tPartly")
    kinds, tally = records(Wands(path="."), tmp_path)
    assert picked(kinds["documents"], "id", "text", "category") == [
        ("0", 'solid wood bed. good "sleep" | overallwidth: 64; color: oak', "Furniture > Bedroom > Beds"),
        ("1", "lamp", "Lamps"),
    ]
    assert picked(kinds["queries"], "id", "text") == [("0", "salon chair")]
    assert picked(kinds["judgments"], "query_id", "doc_id", "relevance") == [("0", "0", 2)]
    assert tally.dropped == {"unreadable_row": 1} and "Partly" in tally.examples["unreadable_row"][0]


def test_esci(tmp_path: Path):
    products = {
        "product_id": ["B1", "B1", "B2"],
        "product_title": ["Mug", "Taza", "Cup"],
        "product_description": ["<b>Red</b>", None, None],
        "product_bullet_point": ["holds tea\nis big", None, None],
        "product_brand": ["Acme", None, None],
        "product_color": [None, None, "blue"],
        "product_locale": ["us", "es", "us"],
    }
    examples = {
        "example_id": [0, 1, 2, 3],
        "query": ["mug", "mug", "taza", "mug"],
        "query_id": [7, 7, 8, 7],
        "product_id": ["B1", "B2", "B1", "B9"],
        "product_locale": ["us", "us", "es", "us"],
        "esci_label": ["E", "I", "E", "X"],
        "small_version": [1, 0, 1, 1],
        "large_version": [1, 1, 1, 1],
        "split": ["train", "test", "train", "train"],
    }
    pq.write_table(pa.table(products), tmp_path / "p.parquet")
    pq.write_table(pa.table(examples), tmp_path / "e.parquet")
    source = Esci(examples="e.parquet", products="p.parquet")
    kinds, tally = records(source, tmp_path)
    assert [(row["id"], normalise(row["text"])) for row in kinds["documents"]] == [
        ("B1", "Mug. Red holds tea is big | brand: Acme"),
        ("B2", "Cup. color: blue"),
    ]
    found = picked(kinds["judgments"], "query_id", "doc_id", "relevance", "split")
    assert found == [("7", "B1", 3, "train"), ("7", "B2", 0, "test")]
    assert tally.dropped == {"other_locale": 2, "unreadable_row": 1}
    every = Esci(examples="e.parquet", products="p.parquet", locales=[], version="small", hashed=True)
    kinds, tally = records(every, tmp_path)
    assert picked(kinds["documents"], "id") == [("B1-us",), ("B1-es",), ("B2-us",)]
    assert picked(kinds["judgments"], "doc_id", "split") == [("B1-us", None), ("B1-es", None)]
    assert tally.dropped["other_version"] == 1


def test_amazon_products_in_both_dialects(tmp_path: Path):
    new = {"asin": "A1", "title": "Card", "description": ["One.", "Two."], "feature": ["small"], "brand": "Acme"}
    new |= {"category": ["Gifts", "Cards"]}
    write_lines(
        tmp_path / "meta.json",
        json.dumps(new),
        "{'asin': 'A2', 'title': 'It\\'s old', 'categories': [['Books', 'Art']], 'price': 1.5, 'related': {}}",
        json.dumps({"asin": "A3", "title": "var aPageStart = (new Date()).getTime();"}),
        "{'asin': __import__('os').getcwd()}",
        "(" * 5000,
        "[1]",
    )
    kinds, tally = records(Amazon(path="meta.json"), tmp_path)
    assert picked(kinds["documents"], "id", "text", "category") == [
        ("A1", "Card. One. Two.\nsmall | brand: Acme", "Gifts > Cards"),
        ("A2", "It's old", "Books > Art"),
    ]
    assert tally.dropped == {"unreadable_row": 4}


def test_amazon_questions_with_one_answer_or_several(tmp_path: Path):
    several = {"asin": "A2", "questions": [{"questionText": "Big?", "answers": [{"answerText": t} for t in "yn"]}]}
    one = "{'asin': 'A1', 'question': 'Does it \\'fit\\'?', 'answer': \"It's fine\", 'unixTime': 1}"
    write_lines(tmp_path / "qa.json", one, repr(several), "{'asin': 'A3', 'question': 'Alone?'}")
    kinds, tally = records(Amazon(path="qa.json", holds="questions"), tmp_path)
    assert picked(kinds["queries"], "text", "group") == [("Does it 'fit'?", "A1"), ("Big?", "A2")]
    assert picked(kinds["documents"], "text") == [("It's fine",), ("y",), ("n",)]
    assert tally.dropped == {"missing_field": 1}


def test_literals_are_never_evaluated():
    for code in (b"__import__('os').system('true')", b"[x for x in (1,)]", b"{**{}}", b"f'{1}'", b"{'a': 1}['a']"):
        assert isinstance(literal(code), str)


def test_shopify_variants_become_one_product(tmp_path: Path):
    columns = "Handle,Title,Body (HTML),Vendor,Type,Tags,Option1 Name,Option1 Value,Option2 Name,Option2 Value"
    write_lines(
        tmp_path / "shop.csv",
        columns,
        'pot,Clay Pot,"<p>Classic,\npot</p>",Acme,Outdoor,"Pot, Plants",Size,Regular,Color,Red',
        "pot,,,,,,,Large,,Red",
        "pot,,,,,,,,,",
        "lamp,Lamp,,,,,Title,Default Title,,",
        "orphan,,,,,,,Small,,",
        "broken,row",
    )
    kinds, tally = records(Shopify(path="*.csv"), tmp_path)
    assert [(r["id"], normalise(r["text"]), r["category"], r["tags"]) for r in kinds["documents"]] == [
        (
            "pot",
            "Clay Pot. Classic, pot | vendor: Acme; Size: Regular, Large; Color: Red",
            "Outdoor",
            ["Pot", "Plants"],
        ),
        ("lamp", "Lamp", None, []),
    ]
    assert tally.dropped == {"missing_field": 1, "unreadable_row": 1}
    assert tally.counts == {"rows": 6, "variants_folded": 2, "html_removed": 1}


def test_msmarco_triples(tmp_path: Path, inline: None):  # noqa: F811
    write_lines(
        tmp_path / "triples.tsv", "what\tgood one\tbad one", "what\tgood one\tworse one", "two\tcolumns", "a\t\tb"
    )
    sources = [{"type": "msmarco", "path": "triples.tsv"}]
    recipe: Recipe = {"root": str(tmp_path), "sources": sources, "triplets": {"judged_positive": 1}}
    artifact = build(recipe, tmp_path / "run")
    rows = table(artifact, "triplets")
    assert picked(rows, "anchor", "positive") == [("what", "good one")]
    assert sorted(negative["text"] for negative in rows[0]["negatives"]) == ["bad one", "worse one"]
    assert artifact.manifest.dropped == {"unreadable_row": 1, "missing_field": 1, "duplicate_judgment": 1}


def test_msmarco_ids(tmp_path: Path, inline: None):  # noqa: F811
    write_lines(tmp_path / "qidpidtriples.tsv", "1\t10\t11")
    write_lines(tmp_path / "collection.tsv", "10\tgood one", "11\tbad one")
    write_lines(tmp_path / "queries.tsv", "1\twhat")
    plain = {"type": "csv", "columns": ["id", "text"], "delimiter": "\t", "quotes": False}
    sources = [
        {"type": "msmarco", "path": "qidpidtriples.tsv", "ids": True},
        {**plain, "path": "collection.tsv"},
        {**plain, "path": "queries.tsv", "kind": "query"},
    ]
    artifact = build({"root": str(tmp_path), "sources": sources}, tmp_path / "run")
    assert sorted(picked(table(artifact, "qrels"), "query_id", "doc_id", "relevance")) == [
        ("1", "10", 1),
        ("1", "11", 0),
    ]


PACKAGES = """Package: foo
Section: libs
Tag: role::shared-lib, implemented-in::c
Description: Short of foo
 Long of foo,
 two lines.
 .
  * indented
Homepage: https://example.org

# a comment
Package: bar
Section: contrib/net
Description: Short of bar
Description-md5: 0123

Package without colon

Package: nothing
Version: 1
"""


def test_debian(tmp_path: Path):
    (tmp_path / "Packages.xz").write_bytes(lzma.compress(PACKAGES.encode()))
    (tmp_path / "Translation-en").write_text(
        "Package: bar\nDescription-md5: 0123\nDescription-en: Short of bar\n Long of bar.\n"
    )
    kinds, tally = records(Debian(path="Packages.xz", descriptions="Translation-en"), tmp_path)
    assert [(r["id"], r["title"], normalise(r["body"]), r["category"], r["tags"]) for r in kinds["documents"]] == [
        (
            "foo",
            "Short of foo",
            "Long of foo, two lines. * indented",
            "libs",
            ["role::shared-lib", "implemented-in::c"],
        ),
        ("bar", "Short of bar", "Long of bar.", "contrib/net", []),
    ]
    assert tally.dropped == {"unreadable_row": 1, "missing_field": 1}
    assert tally.examples["unreadable_row"] == ["Packages.xz:17 not `Field: value`: 'Package without colon'"]


def test_ditto(tmp_path: Path):
    write_lines(
        tmp_path / "pairs.txt",
        "COL name VAL sony camera COL price VAL  \tCOL name VAL canon COL price VAL 299.95 \t0",
        "COL name VAL a COL brand VAL b\tCOL name VAL a\t1",
        "COL name VAL a\tCOL name VAL b\tmaybe",
        "name a\tCOL name VAL b\t1",
        "no tabs",
    )
    kinds, tally = records(Ditto(path="pairs.txt", split="dev"), tmp_path)
    assert picked(kinds["labelled"], "left", "right", "score", "split") == [
        ("sony camera", "canon | 299.95", 0.0, "dev"),
        ("a | b", "a", 1.0, "dev"),
    ]
    assert tally.dropped == {"unreadable_row": 3}
    kinds, _ = records(Ditto(path="pairs.txt", columns=["brand", "name"]), tmp_path)
    assert kinds["labelled"][1]["left"] == "b | a"


def formats(shared_data: Path, *sources: Recipe, **more: Any) -> Recipe:
    return {"root": str(shared_data), "sources": list(sources), **more}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def test_real_judged_catalogues_agree(inline: None, shared_data: Path, tmp_path: Path):  # noqa: F811
    """The same content in the layouts of WANDS, ESCI and Quepid gives the same judgments as its publishers' table."""
    folder = "formats/converted_esci_shape/shopping_queries_dataset"
    esci = {"type": "esci", "examples": f"{folder}_examples.parquet", "products": f"{folder}_products.parquet"}
    first = build(formats(shared_data, {**esci, "hashed": True}), tmp_path / "esci")
    assert first.rows("queries") == 98
    assert first.rows("qrels") + first.manifest.dropped["duplicate_judgment"] == 2585
    examples = rows_of(shared_data / f"{folder}_examples.parquet")
    wanted = {(r["query"], r["product_id"]): dict(E=3, S=2, C=1, I=0)[r["esci_label"]] for r in examples}
    text_of = {row["query_id"]: row["text"] for row in table(first, "queries")}
    found = {(text_of[r["query_id"]], r["doc_id"]): r["relevance"] for r in table(first, "qrels")}
    assert len(found) == first.rows("qrels") and all(wanted[pair] == grade for pair, grade in found.items())

    kinds, tally = records(Wands(path="formats/converted_wands_shape"), shared_data)
    assert (len(kinds["queries"]), len(kinds["documents"]), tally.dropped) == (98, 1922, {})
    lines = (shared_data / "formats/converted_wands_shape/label.csv").read_text().splitlines()[1:]
    labels = [line.split("\t")[1:] for line in lines]
    grades = {"Exact": 2, "Partial": 1, "Irrelevant": 0}
    assert picked(kinds["judgments"], "query_id", "doc_id", "relevance") == [(q, d, grades[x]) for q, d, x in labels]
    first_product = kinds["documents"][0]
    assert "product type: Notebook; product colour: Silver" in first_product["body"]
    assert first_product["category"] == "Notebook"

    rated = {"type": "csv", "path": "formats/quepid_csv/rated.csv", "kind": "rated"}
    corpus = {"type": "parquet", "path": "product/chorus_icecat", "tables": ["corpus"]}
    quepid = build(formats(shared_data, rated, corpus), tmp_path / "quepid")
    text_of = {row["query_id"]: row["text"] for row in table(quepid, "queries")}
    judged = {(text_of[r["query_id"]], r["doc_id"]): r["relevance"] for r in table(quepid, "qrels")}
    assert sum(wanted.get(pair) == grade for pair, grade in judged.items()) > 0.9 * len(wanted)


def test_real_queries_of_wands(shared_data: Path):
    kinds, tally = records(Wands(path="formats/wands"), shared_data)
    assert len(kinds["queries"]) == 480 and not tally.dropped and set(kinds) == {"queries"}
    assert picked(kinds["queries"], "id", "text")[0] == ("0", "salon chair")


def test_real_squad_agrees_with_the_published_passages(inline: None, shared_data: Path, tmp_path: Path):  # noqa: F811
    source = {"type": "squad", "path": "formats/squad_json/*.json", "passage_chars": 900}
    artifact = build(formats(shared_data, source), tmp_path)
    assert artifact.rows("queries") > 1300 and artifact.manifest.notes["counts"]["rows"] == 1380
    mine = {row["text"] for row in table(artifact, "corpus")}
    theirs = {normalise(row["text"]) for row in rows_of(shared_data / "qa/covidqa/corpus.parquet")}
    assert len(mine & theirs) > 0.8 * len(theirs)
    groups: dict[str, set[str]] = {}
    for row in table(artifact, "pairs"):
        groups.setdefault(row["group_id"], set()).add(row["split"])
    assert len(groups) > 90 and all(len(splits) == 1 for splits in groups.values())


def test_real_labelled_pairs(inline: None, shared_data: Path, tmp_path: Path):  # noqa: F811
    ditto = {"type": "ditto", "path": "formats/ditto_colval/abt_buy.valid.txt", "split": "dev"}
    found = table(build(formats(shared_data, ditto), tmp_path / "ditto"), "labelled")
    published = rows_of(shared_data / "matching/abt_buy/pairs_labelled.dev.parquet")
    wanted = {(normalise(r["left"]), normalise(r["right"]), float(r["label"])) for r in published}
    assert {(row["left"], row["right"], row["score"]) for row in found} <= wanted
    labels = Counter((left, right) for left, right, _ in wanted)
    assert {(row["left"], row["right"]) for row in found} == {pair for pair, count in labels.items() if count == 1}
    assert Counter(labels.values())[2] == 1  # a pair that is published with both labels says nothing

    columns = {"columns": ["sentence1", "sentence2", "score"], "kind": "labelled", "scale": 5}
    sts = {"type": "csv", "path": "formats/stsb_csv/stsb-en-dev.csv", **columns}
    artifact = build(formats(shared_data, sts), tmp_path / "sts")
    found, lost = table(artifact, "labelled"), artifact.manifest.dropped
    published = rows_of(shared_data / "sts/stsb_en/sts.dev.parquet")
    wanted = {(normalise(r["sentence1"]), normalise(r["sentence2"])): r["score"] / 5 for r in published}
    assert lost == {"duplicate_labelled": 2, "leaked_labelled_pair": 1}  # one pair turned round, in train and in dev
    assert (len(wanted), len(found)) == (1498, 1497)
    assert all(abs(wanted[row["left"], row["right"]] - row["score"]) < 1e-6 for row in found)


def test_real_shops(inline: None, shared_data: Path, tmp_path: Path):  # noqa: F811
    source = {"type": "shopify", "path": "formats/shopify_csv/*.csv"}
    artifact = build(formats(shared_data, source, pairs={"title_description": True}), tmp_path)
    assert artifact.rows("corpus") == 60 and not artifact.manifest.dropped
    counts = artifact.manifest.notes["counts"]
    assert {n: counts[n] for n in ("documents", "rows", "variants_folded")} == {
        "documents": 60,
        "rows": 84,
        "variants_folded": 24,
    }
    corpus = {row["doc_id"]: row for row in table(artifact, "corpus")}
    assert corpus["clay-plant-pot"]["text"] == (
        "Clay Plant Pot. Classic blown clay pot for plants | vendor: Company 123; Size: Regular, Large"
    )
    assert corpus["clay-plant-pot"]["tags"] == ["Pot", "Plants"]


def test_real_amazon_lines(inline: None, shared_data: Path, tmp_path: Path):  # noqa: F811
    meta = {"type": "amazon", "path": "formats/amazon/meta_*.jsonl", "name": "goods"}
    asked = {"type": "amazon", "path": "formats/amazon/qa_*.json", "holds": "questions", "name": "asked"}
    artifact = build(formats(shared_data, meta, asked), tmp_path)
    sources = artifact.manifest.notes["sources"]
    assert sources["goods"]["rows"] == 150 and sources["asked"]["rows"] == 150
    assert sources["goods"]["documents"] + artifact.manifest.dropped.get("unreadable_row", 0) == 150
    pairs = {row["anchor"]: row["positive"] for row in table(artifact, "pairs")}
    question = "Does this come with power cord and dishwasher hook up?"
    assert pairs[question] == "It does not come with a power cord. It does come with the dishwasher hookup."
    assert not [row for row in table(artifact, "corpus") if "<br" in row["text"] or "&amp;" in row["text"]]


def test_real_beir_folder(inline: None, shared_data: Path, tmp_path: Path):  # noqa: F811
    artifact = build(formats(shared_data, {"type": "beir", "path": "formats/beir/dbpedia_5k"}), tmp_path)
    assert {name: artifact.rows(name) for name in ("corpus", "queries", "qrels")} == {
        "corpus": 5000,
        "queries": 40,
        "qrels": 3709,
    }
    assert artifact.manifest.dropped == {"query_without_judgment": 10}
    assert artifact.manifest.notes["splits"]["queries"] == {"test": 40}
