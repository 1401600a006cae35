"""Parsers on hostile input: whatever the bytes, rows are read or counted, or one clear error is raised."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from pipeline.building.read import TextLimits, clean
from pipeline.core.errors import UserError
from pipeline.sources.amazon import Amazon, literal
from pipeline.sources.csv import Csv
from pipeline.sources.debian import Debian
from pipeline.sources.ditto import Ditto
from pipeline.sources.google_merchant import GoogleMerchant
from pipeline.sources.json import Json
from pipeline.sources.jsonl import JsonLines, objects
from pipeline.sources.msmarco import MsMarco
from pipeline.sources.reading.record import Parsed, SourceConfig
from pipeline.sources.shopify import Shopify
from pipeline.sources.squad import Squad, passages
from pipeline.sources.stackexchange import StackExchange
from pipeline.sources.woocommerce import WooCommerce
from pipeline.storage.archives import container
from pipeline.storage.counts import Counts
from pipeline.storage.json_lines import parse_object
from pipeline.text.normalize import html_to_text, normalise

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60)

POST = '<row Id="1" PostTypeId="1" Title="How &amp;lt;b&gt;?" Body="&lt;p&gt;caf\u00e9&lt;/p&gt;" Tags="|a|" />\n'
SECOND = POST.replace(' Id="1"', ' Id="2"')
LINK = b'<postlinks>\n<row PostId="2" RelatedPostId="1" LinkTypeId="3" />\n'
SHOP = 'Handle,Title,Body (HTML),Option1 Name,Option1 Value\npot,Pot,"<p>a,\nb</p>",Size,L\npot,,,,S\n'
WOO = "ID,Type,SKU,Name,Description,Categories,Attribute 1 name,Attribute 1 value(s),Parent\n"
WOO += '1,variable,m,Mug,"<p>a</p>\\n b","A > B, C",Size,"S, L",\n2,variation,m-s,Mug - S,,,Size,S,m\n'
FEED = '<rss xmlns:g="http://base.google.com/ns/1.0"><channel><item><g:id>1</g:id><title>Mug</title><link>l</link>'
FEED += (
    "<description>a &lt;b&gt;c&lt;/b&gt;</description><g:product_type>A &gt; B</g:product_type></item></channel></rss>"
)
ASKED = {"question": "q", "answers": [{"answer_start": 1}]}
SQUAD = json.dumps({"data": [{"title": "T", "paragraphs": [{"context": "A b. C.", "qas": [ASKED]}]}]})
SEEDS: dict[str, tuple[SourceConfig, str]] = {
    "stackexchange": (
        StackExchange(path="f", links="l"),
        f"<posts>\n{POST}{SECOND}</posts>\n",
    ),
    "csv": (Csv(path="f", kind="qa"), 'question,answer\n"a ""b""","c\nd"\ne,f\n'),
    "tsv": (Csv(path="f", kind="qa", quotes=False), "question\tanswer\na\tb\n"),
    "jsonl": (JsonLines(path="f", kind="product"), '{"id": 1, "title": "a", "tags": ["x"], "category": ["b", null]}\n'),
    "json": (Json(path="f", kind="product"), '[\n {"id": 1, "title": "a"},\n {"@type": "Product", "name": "b"}\n]'),
    "shopify": (Shopify(path="f"), SHOP),
    "woocommerce": (WooCommerce(path="f"), WOO),
    "google_merchant": (GoogleMerchant(path="f"), FEED),
    "google_merchant_table": (GoogleMerchant(path="f"), "id\ttitle\tlink\tdescription\n1\tMug\tl\t<p>a</p>\n"),
    "escaped_csv": (Csv(path="f", kind="qa", escape="\\"), 'sep=;\nquestion;answer\n"a \\"b\\"";"c\nd"\n"e";f\n'),
    "squad": (Squad(path="f", passage_chars=50), SQUAD),
    "amazon": (Amazon(path="f", holds="questions"), "{'asin': 'A', 'question': 'b', 'answer': \"c\"}\n"),
    "ditto": (Ditto(path="f"), "COL a VAL b\tCOL a VAL c\t1\n"),
    "msmarco": (MsMarco(path="f"), "a\tb\tc\n"),
    "debian": (Debian(path="f"), "Package: a\nDescription: b\n long\n\n"),
}
GARBAGE = [b"", b"\x00", b"\xff\xfe", b'"', b"\n", b"\r", b"<", b"&#x0;", b"&a;", b"\xed\xa0\x80", b"{", b"[" * 3000]
GARBAGE += [b"NaN", b"Infinity", b"1e999", b"null", b"\t", b",", b"9" * 5000, b'\\ud800"', b"<!DOCTYPE a [", b"\x1b"]
mutations = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 30), st.one_of(st.sampled_from(GARBAGE), st.binary(max_size=8))),
    max_size=6,
)


def mutated(raw: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for place, length, piece in changes:
        at = int(place * len(raw))
        raw = raw[:at] + piece + raw[at + length :]
    return raw


def read_all(source: SourceConfig, root: Path) -> tuple[list[dict[str, Any]], Counts]:
    """What a build's first step makes of a source, each record in the schema of its kind."""
    total, rows = Counts(), []
    for block in source.blocks(str(root), 0, 40):
        for parsed in source.parse(block):
            for table in clean(parsed, TextLimits(1, 1000)).values():
                rows += table.to_pylist()
            total.add(parsed.tally)
    return rows, total


@pytest.mark.parametrize("name", SEEDS)
@quick
@given(changes=mutations)
@example(changes=[])
def test_broken_bytes_are_counted_or_refused(name: str, changes: list[tuple[float, int, bytes]], tmp_path: Path):
    source, text = SEEDS[name]
    (tmp_path / "f").write_bytes(mutated(text.encode(), changes))
    (tmp_path / "l").write_bytes(mutated(LINK, changes))
    try:
        rows, tally = read_all(source, tmp_path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert tally.counts["rows"] or not rows
    if not changes:
        assert rows and not tally.dropped


FIELDS = ["id", "_id", "question", "answer", "answers", "text", "title", "query", "doc_id", "query_id", "relevance"]
FIELDS += [
    "score",
    "left",
    "right",
    "category",
    "categories",
    "tags",
    "part",
    "split",
    "description",
    "name",
    "anchor",
    "positive",
]
PLAIN = st.one_of(texts, st.sampled_from(["", " a ", "<b>x</b>", "train", "validation", "2", "E"]), st.integers(-3, 3))
VALUES = st.one_of(
    PLAIN, PLAIN, st.none(), st.lists(texts, max_size=3), st.floats(), st.booleans(), st.dictionaries(texts, texts)
)
SORTS = [texts, texts | st.none(), st.integers(0, 3), st.lists(texts, max_size=3), st.sampled_from(["1", "E", "x"])]
TABLES = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(SORTS), min_size=4).flatmap(
    lambda columns: st.lists(st.fixed_dictionaries({}, optional=columns), max_size=6)
)
KINDS = {
    "qa": {"fields": {"split": "split", "group": "part"}},
    "pair": {"html": False, "grades": {"E": 3}},
    "product": {"fields": {"group": "part"}, "separator": "/"},
    "document": {},
    "query": {"split": "dev"},
    "judgment": {"grades": {"E": 3}},
    "rated": {},
    "labelled": {"scale": 5},
}


def cleaned(parts: Iterable[Parsed]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Clean records by kind in the order of the input, and all that was counted."""
    kinds, total = defaultdict(list), Counts()
    for parsed in parts:
        for kind, table in clean(parsed, TextLimits(1, 20)).items():
            kinds[kind] += table.to_pylist()
        total.add(parsed.tally)
    counted = total.to_json() | {
        "offenders": sorted(total.offenders),
        "counts": {k: n for k, n in total.counts.items() if n},
    }
    return {kind: sorted(rows, key=repr) for kind, rows in kinds.items() if rows}, counted


@pytest.mark.parametrize("kind", KINDS)
@settings(quick, max_examples=20)
@given(
    rows=TABLES | st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES) | st.sampled_from([[], 1]), max_size=8),
    changes=st.one_of(st.just([]), mutations),
    ends=st.sampled_from(["\n", "\r\n", "\n\n", " \n"]),
    size=st.sampled_from([30, 1 << 20]),
)
@example(rows=[{"question": "a", "answer": "b", "id": None}] * 3, changes=[], ends="\n", size=99)
@example(rows=[{"question": "a", "answers": ["b", "c"], "relevance": 2}], changes=[], ends="\n", size=99)
def test_json_lines_by_columns_are_those_by_rows(
    kind: str, rows: list[Any], changes: list[tuple[float, int, bytes]], ends: str, size: int, tmp_path: Path
):
    raw = "".join(json.dumps(row, ensure_ascii=False) + ends for row in rows)
    (tmp_path / "f").write_bytes(mutated(raw.encode(), changes))
    source = JsonLines.model_validate({"path": "f", "kind": kind, **KINDS[kind]})
    try:
        blocks = source.blocks(str(tmp_path), 0, size)
    except UserError as error:
        assert changes and "type: json" in str(error)
        return
    for block in blocks:
        by_rows = cleaned(objects(block, source, "s", "p-", parse_object))
        assert cleaned(objects(block, source, "s", "p-")) == by_rows


@quick
@given(rows=st.lists(st.tuples(texts, texts), max_size=6))
def test_csv_gives_back_what_was_written(rows: list[tuple[str, str]], tmp_path: Path):
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([("left", "right", "score"), *((a, b, 1) for a, b in rows)])
    (tmp_path / "f.csv").write_bytes(written.getvalue().encode())
    source = Csv(path="f.csv", kind="labelled", html=False, null_values=[])
    (block,) = source.blocks(str(tmp_path), 0, 10)
    found = [r for parsed in source.parse(block) for r in parsed.kinds.get("labelled", [])]
    assert [(row["left"], row["right"]) for row in found] == [row for row in rows if all(map(str.strip, row))]


@pytest.mark.parametrize("write", [repr, json.dumps])
@quick
@given(value=st.recursive(st.none() | st.booleans() | st.integers() | texts, lambda v: st.lists(v, max_size=3)))
def test_literals_come_back(write: Any, value: Any):
    assert literal(write({"a": value}).encode()) == {"a": value}


@quick
@given(lines=st.lists(st.binary(max_size=40), max_size=12), size=st.integers(1, 50))
def test_lines_belong_to_one_block_whatever_the_cut(lines: list[bytes], size: int, tmp_path: Path):
    (tmp_path / "f").write_bytes(b"\n".join(lines))
    assume(container(str(tmp_path / "f")) is None)  # first bytes of an archive, which is refused
    source = MsMarco(path="f")
    whole, pieces = Counts(), Counts()
    for tally, step in ((whole, 1 << 20), (pieces, size)):
        for block in source.blocks(str(tmp_path), 0, step):
            for parsed in source.parse(block):
                tally.add(parsed.tally)
    assert (whole.counts, whole.dropped, whole.rows) == (pieces.counts, pieces.dropped, pieces.rows)


@quick
@given(text=st.text(max_size=300))
def test_passages_are_a_partition(text: str):
    starts = passages(text, 50)
    assert starts[0] == 0 and starts == sorted(set(starts)) and all(start < max(1, len(text)) for start in starts)


@quick
@given(text=st.text(max_size=200))
def test_normal_form_is_stable_and_writable(text: str):
    for form in (normalise(text), normalise(html_to_text(text))):
        assert normalise(form) == form
        form.encode("utf-8")
