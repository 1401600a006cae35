"""Small files in the shapes in which the corpora are published, and the rows that come of them."""

import codecs
import gzip
import io
import itertools
import json
import lzma
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lxml import etree

from scripts.tripletail.corpora import benchmarks, covidqa, debian, medquad, products, stackexchange
from scripts.tripletail.corpora.corpus import Corpus, Outputs
from scripts.tripletail.corpora.download import digest
from scripts.tripletail.corpora.registry import CORPORA
from scripts.tripletail.corpora.splits import read_splits


def rows(outputs: Outputs, name: str) -> list[dict[str, Any]]:
    table = outputs[f"{name}.parquet"]
    assert isinstance(table, pa.Table)
    return table.to_pylist()


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """The units that are not train; tests fill it in."""
    units: dict[int, str] = {}
    for module in (medquad, covidqa, stackexchange, products):
        monkeypatch.setattr(module, "read_splits", lambda _name: units)
    return units


def medquad_file(topic: str, pairs: list[tuple[str, str, str, str]]) -> str:
    entries = "".join(
        f'<QAPair pid="1"><Question qid="{qid}" qtype="{kind}">{question}</Question><Answer>{answer}</Answer></QAPair>'
        for qid, kind, question, answer in pairs
    )
    return f"<Document><Focus>{topic}</Focus><QAPairs>{entries}</QAPairs></Document>"


def write_medquad(folder: Path, files: dict[str, str]) -> None:
    with tarfile.open(folder / "medquad.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"MedQuAD-1/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def test_medquad(tmp_path: Path, splits: dict[int, str]):
    shared = "Talk to  your\n doctor."
    files = {
        "10_Late/b.xml": medquad_file("Gout", [("3-1", "information", "What is Gout ?", "An arthritis.")]),
        "2_Early/a.xml": medquad_file(
            "Flu",
            [
                ("1-1", "information", "What is  Flu ?", "A virus &amp; a fever."),
                ("1-1", "treatment", "How is Flu treated ?", shared),
                ("1-3", "outlook", "What comes of Flu ?", ""),
            ],
        ),
        "2_Early/b.xml": medquad_file("Cold", [("1-1", "treatment", "How is Cold treated ?", shared)]),
        "2_Early/c.xml": medquad_file("Mumps", [("9-1", "information", "What are Mumps ?", "A disease.")]),
        "readme.txt": "no XML",
    }
    write_medquad(tmp_path, files)
    splits.update({1: "dev", 2: "unused"})
    outputs = medquad.prepare(tmp_path)
    assert rows(outputs, "corpus") == [
        {"doc_id": "2-1-1", "title": "Flu", "text": "A virus & a fever.", "category": "information"},
        {"doc_id": "2-1-1-b1", "title": "Flu", "text": "Talk to your doctor.", "category": "treatment"},
        {"doc_id": "2-9-1", "title": "Mumps", "text": "A disease.", "category": "information"},
        {"doc_id": "10-3-1", "title": "Gout", "text": "An arthritis.", "category": "information"},
    ]
    # The answer that Flu (train) and Cold (dev) share counts for dev alone, and Mumps for neither.
    assert rows(outputs, "queries.train") == [
        {"query_id": "q00000", "text": "What is Flu ?"},
        {"query_id": "q00004", "text": "What is Gout ?"},
    ]
    assert rows(outputs, "queries.dev") == [{"query_id": "q00002", "text": "How is Cold treated ?"}]
    assert rows(outputs, "qrels.dev") == [{"query_id": "q00002", "doc_id": "2-1-1-b1", "relevance": 1}]
    assert rows(outputs, "pairs.train") == [
        {"anchor": "What is Flu ?", "positive": "A virus & a fever."},
        {"anchor": "What is Gout ?", "positive": "An arthritis."},
    ]


def test_covidqa(tmp_path: Path, splits: dict[int, str]):
    first, second = "A " * 300 + "virus.", "B " * 300 + "cure."
    context = f"{first} {second}\n\nEnd."
    answer = {"text": "virus. B", "answer_start": context.index("virus")}
    question = {"question": "What is\n it?", "id": 7, "answers": [answer], "is_impossible": False}
    article = {"paragraphs": [{"context": context, "document_id": 1, "qas": [question]}]}
    copy = {"paragraphs": [{"context": "End.", "document_id": 2, "qas": [question | {"id": 8, "answers": []}]}]}
    (tmp_path / "covidqa.json").write_text(json.dumps({"data": [article, copy, article]}), encoding="utf-8")
    splits[1] = "dev"
    outputs = covidqa.prepare(tmp_path)
    assert [row["doc_id"] for row in rows(outputs, "corpus")] == ["0-0-0", "0-0-1", "1-0-0"]
    assert [row["text"] for row in rows(outputs, "corpus")] == [first, f"{second} End.", "End."]
    assert rows(outputs, "queries.dev") == [{"query_id": "8", "text": "What is it?"}]
    assert rows(outputs, "qrels.train") == [
        {"query_id": "7", "doc_id": "0-0-0", "relevance": 1},
        {"query_id": "7", "doc_id": "0-0-1", "relevance": 1},
    ]
    assert "qrels.dev.parquet" not in outputs


@pytest.mark.parametrize("length", [1, 899, 900, 901, 902, 1800, 5000])
def test_passages_cover_a_text_and_are_short(length: int):
    text = "x" * length + ". " + "y" * 400 + ". " + "z" * 600
    spans = covidqa.cut_passages(text)
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert all(end - start <= covidqa.MAX_CHARS + 1 for start, end in spans)
    assert all(not text[end:start].strip() for (_, end), (start, _) in itertools.pairwise(spans))


def test_matheducators(tmp_path: Path, splits: dict[int, str]):
    posts = [
        {
            "Id": "1",
            "PostTypeId": "1",
            "AcceptedAnswerId": "3",
            "Title": "Why?",
            "Tags": "<proofs><logic>",
            "Body": "<p>So</p>",
        },
        {"Id": "2", "PostTypeId": "2", "ParentId": "1", "Score": "3", "Body": "<p>A<br/>B</p>\n\n<p>C &amp; D</p>"},
        {"Id": "3", "PostTypeId": "2", "ParentId": "1", "Score": "0", "Body": "E"},
        {"Id": "4", "PostTypeId": "2", "ParentId": "1", "Score": "-1", "Body": "F"},
        {"Id": "5", "PostTypeId": "2", "ParentId": "99", "Score": "9", "Body": "its question is lost"},
        {"Id": "6", "PostTypeId": "1", "Title": "Nobody knows", "Tags": "", "Body": "G"},
        {"Id": "7", "PostTypeId": "1", "Title": "How?", "Tags": "|teaching|", "Body": "H"},
        {"Id": "8", "PostTypeId": "2", "ParentId": "7", "Score": "1", "Body": "I"},
        {"Id": "9", "PostTypeId": "5", "Body": "a wiki page"},
    ]
    root = etree.Element("posts")
    for post in posts:
        etree.SubElement(root, "row", post)
    (tmp_path / "Posts.xml").write_bytes(codecs.BOM_UTF8 + etree.tostring(root, encoding="utf-8"))
    splits[7] = "dev"
    outputs = stackexchange.prepare_matheducators(tmp_path)
    assert rows(outputs, "corpus") == [
        {"doc_id": "a2", "title": "", "text": "A\nB\nC & D", "category": "proofs"},
        {"doc_id": "a3", "title": "", "text": "E", "category": "proofs"},
        {"doc_id": "a4", "title": "", "text": "F", "category": "proofs"},
        {"doc_id": "a8", "title": "", "text": "I", "category": "teaching"},
    ]
    assert rows(outputs, "queries.train") == [{"query_id": "q1", "text": "Why?", "body": "So"}]
    assert [(row["doc_id"], row["relevance"]) for row in rows(outputs, "qrels.train")] == [
        ("a2", 2),
        ("a3", 3),
        ("a4", 0),
    ]
    assert rows(outputs, "qrels.dev") == [{"query_id": "q7", "doc_id": "a8", "relevance": 1}]
    assert rows(outputs, "pairs.train") == [
        {"anchor": "Why?", "positive": "A\nB\nC & D"},
        {"anchor": "Why?", "positive": "E"},
    ]


def test_chorus(tmp_path: Path, splits: dict[int, str]):
    long = "A mouse with many buttons, made for hands of every size and shape"
    catalogue = [
        {"id": "1", "title": "Mouse", "short_description": long, "supplier": "HP", "attr_t_product_type": "Mice"},
        {"id": "2", "title": "Pad", "supplier": "APC", "price": 5, "attr_n_width": 2.0, "attr_t_size__w_": "2 x  3"},
    ]
    for number, product in enumerate(catalogue, 1):
        with zipfile.ZipFile(tmp_path / f"{number}.json.zip", "w") as archive:
            archive.writestr(f"{number}.json", json.dumps([product]))
    (tmp_path / "rated.csv").write_text(
        "query,docid,rating\npad,2,3\nmouse,1,2\nmouse,2,0\nzip,1,1\n", encoding="utf-8"
    )
    splits.update({1: "dev", 2: "unused"})
    outputs = products.prepare_chorus(tmp_path)
    assert rows(outputs, "corpus") == [
        {"doc_id": "1", "title": "Mouse", "text": f"{long} | product type: Mice", "category": "Mice"},
        {"doc_id": "2", "title": "Pad", "text": "| size w: 2 x 3", "category": "APC"},
    ]
    assert rows(outputs, "queries.train") == [{"query_id": "q000", "text": "mouse"}]
    assert rows(outputs, "qrels.train") == [
        {"query_id": "q000", "doc_id": "1", "relevance": 2},
        {"query_id": "q000", "doc_id": "2", "relevance": 0},
    ]
    assert rows(outputs, "qrels.dev") == [{"query_id": "q001", "doc_id": "2", "relevance": 3}]
    assert rows(outputs, "pairs.train") == [{"anchor": "Mouse", "positive": f"{long} | product type: Mice"}]


def test_movies(tmp_path: Path, splits: dict[int, str]):
    films = [
        {"id": "5", "title": "Alien  3", "overview": "In  space", "tags": "[]"},
        {"id": "6", "title": "Up", "overview": ""},
    ]
    with gzip.open(tmp_path / "movies-corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(film) + "\n" for film in films)
    with gzip.open(tmp_path / "movies-judgments.tsv.gz", "wt", encoding="utf-8") as file:
        file.write('query_id\tquery\tdoc_id\tgrade\nqid:9\ta "quote\t5\t1\nqid:9\ta "quote\t7\t0\nqid:2\tup\t6\t0\n')
    splits[1] = "dev"
    outputs = products.prepare_movies(tmp_path)
    assert rows(outputs, "corpus") == [
        {"doc_id": "5", "title": "Alien 3", "text": "In space", "category": None},
        {"doc_id": "6", "title": "Up", "text": "", "category": None},
    ]
    assert rows(outputs, "queries.train") == [{"query_id": "q00000", "text": 'a "quote'}]
    assert rows(outputs, "qrels.train") == [{"query_id": "q00000", "doc_id": "5", "relevance": 1}]
    assert rows(outputs, "qrels.dev") == [{"query_id": "q00001", "doc_id": "6", "relevance": 0}]


def test_debian(tmp_path: Path):
    long = "Reads mail, sorts mail\n and sends mail to people who like it."
    packages = (
        "Package: mutt\nDescription-md5: 1\nTag: role::program,\n use::reading\nSection: mail\n\n"
        "Package: mutt-copy\nDescription-md5: 2\nSection: mail\n\n"
        "Package: tiny\nDescription-md5: 3\n\n"
        "Package: untranslated\nDescription-md5: 4\n"
    )
    translation = (
        f"Package: mutt\nDescription-md5: 1\nDescription-en: mail  reader\n {long}\n .\n It is text only.\n\n"
        f"Package: mutt-copy\nDescription-md5: 2\nDescription-en: the same\n {long}\n .\n It is text only.\n\n"
        "Package: tiny\nDescription-md5: 3\nDescription-en: tiny\n Says nothing.\n"
    )
    with lzma.open(tmp_path / "Packages.xz", "wt", encoding="utf-8") as file:
        file.write(packages)
    with lzma.open(tmp_path / "Translation-en.xz", "wt", encoding="utf-8") as file:
        file.write(translation)
    outputs = debian.prepare(tmp_path)
    text = "Reads mail, sorts mail and sends mail to people who like it. It is text only."
    assert rows(outputs, "corpus") == [
        {
            "doc_id": "mutt",
            "title": "mail reader",
            "text": text,
            "category": "mail",
            "tags": "role::program, use::reading",
        }
    ]
    split = debian.SPLITS.assign("mutt")
    assert rows(outputs, f"pairs.{split}") == [{"doc_id": "mutt", "anchor": "mail reader", "positive": text}]


def test_stsb(tmp_path: Path):
    (tmp_path / "stsb-en-train.csv").write_text('"A man, dancing.",A man dances.,4.750\n', encoding="utf-8")
    (tmp_path / "stsb-en-dev.csv").write_text("A dog.,A cat.,0.5\n", encoding="utf-8")
    outputs = benchmarks.prepare_stsb(tmp_path)
    assert rows(outputs, "sts.train") == [{"sentence1": "A man, dancing.", "sentence2": "A man dances.", "score": 4.75}]
    assert rows(outputs, "sts.dev") == [{"sentence1": "A dog.", "sentence2": "A cat.", "score": 0.5}]


@pytest.mark.parametrize("name", ["medquad", "covidqa", "matheducators", "chorus", "movies"])
def test_the_lists_of_splits_name_each_unit_once(name: str):
    path = Path(medquad.__file__).with_name("splits") / f"{name}.txt"
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    units = [unit for _, *part in lines for unit in part]
    assert {line[0] for line in lines} <= {"dev", "unused"}
    assert len(units) == len(set(units)) == len(read_splits(name)) > 0


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=CORPORA)
def test_every_download_has_an_address_a_digest_and_a_size(corpus: Corpus):
    assert corpus.licence and corpus.origin.startswith("https://")
    for item in corpus.downloads:
        assert item.url.startswith("https://") and len(item.sha256) == 64 and item.size > 0


def test_the_published_articles_give_the_development_tables(tmp_path: Path, shared_data: Path):
    shutil.copy(shared_data / "formats/squad_json/200423_covidQA.json", tmp_path / "covidqa.json")
    assert digest(tmp_path / "covidqa.json", unpacked=False) == covidqa.COVIDQA.downloads[0].sha256
    outputs = covidqa.prepare(tmp_path)
    assert set(outputs) == {path.name for path in (shared_data / covidqa.COVIDQA.folder).iterdir()}
    for name in outputs:
        development = pq.read_table(shared_data / covidqa.COVIDQA.folder / name)
        assert rows(outputs, name.removesuffix(".parquet")) == development.to_pylist(), name


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("coffee", ["formats/stackexchange/Posts.xml"]),
        (
            "dbpedia",
            [f"formats/beir/dbpedia_5k/{file}" for file in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")],
        ),
    ],
)
def test_the_development_files_are_the_published_ones(name: str, files: list[str], shared_data: Path):
    published = [item.sha256 for item in CORPORA[name].downloads]
    assert [digest(shared_data / file, unpacked=False) for file in files] == published
