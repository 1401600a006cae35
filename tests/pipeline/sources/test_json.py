"""Arrays, wrapped exports, pretty-printed objects and JSON-LD give the rows that JSON lines give."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.sources.json import Json
from pipeline.sources.jsonl import JsonLines
from tests.support.corpora import records

ROWS = [{"question": "How deep is it?", "answer": "Ten metres"}, {"question": "How wide is it?", "answer": "Two"}]
LAYOUTS = {
    "array": (json.dumps(ROWS), {}),
    "an object a line": ("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n", {}),
    "pretty": (json.dumps(ROWS, indent=1), {}),
    "objects in turn": ("\n".join(json.dumps(row, indent=2) for row in ROWS), {}),
    "wrapped": (json.dumps({"articles": ROWS, "count": 2}), {"records": "articles"}),
    "wrapped twice": (json.dumps({"data": {"items": ROWS}}), {"records": "data.items"}),
    "pages": ("\n".join(json.dumps({"articles": [row]}) for row in ROWS), {"records": "articles"}),
}


def read(root: Path, text: str, **settings: Any) -> Any:
    (root / "f.json").write_text(text, encoding="utf-8")
    return records(Json.model_validate({"path": "f.json", **settings}), root)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path):
    text, settings = LAYOUTS[layout]
    kinds, tally = read(tmp_path, text, kind="qa", **settings)
    assert [query["text"] for query in kinds["queries"]] == ["How deep is it?", "How wide is it?"]
    assert [document["text"] for document in kinds["documents"]] == ["Ten metres", "Two"]
    assert tally.counts == {"rows": 2} and not tally.dropped


def test_packed_with_a_mark_and_rows_that_are_no_objects(tmp_path: Path):
    (tmp_path / "f.json.gz").write_bytes(gzip.compress(b'\xef\xbb\xbf[{"id": 1, "text": "a", "x": 2}, 7, {"id": 3}]'))
    kinds, tally = records(Json(path="*.gz"), tmp_path)
    assert [(row["id"], row["text"]) for row in kinds["documents"]] == [("1", "a")]
    assert tally.unused == {"unreadable_row": 1, "missing_field": 1} and tally.unread == {"x"}
    assert tally.examples["unreadable_row"] == ["f.json.gz:2 expected an object, got a number"]


def test_products_of_json_ld(tmp_path: Path):
    mug = {"@type": "Product", "name": "Mug", "sku": "1", "description": "Holds tea", "color": "Red"}
    mug |= {"brand": {"@type": "Brand", "name": "Acme"}, "category": "Home > Mugs", "offers": {"price": "9"}}
    mug["additionalProperty"] = [{"@type": "PropertyValue", "name": "Volume", "value": 0.3}]
    graph = {"@context": "https://schema.org", "@graph": [{"@type": "WebPage", "name": "Shop"}, mug]}
    kinds, tally = read(tmp_path, json.dumps(graph), kind="product")
    assert [(row["id"], row["text"], row["category"]) for row in kinds["documents"]] == [
        ("1", "Mug. Holds tea | brand: Acme; color: Red; Volume: 0.3", "Home > Mugs")
    ]
    assert tally.unused == {"other_type": 1} and tally.unread == {"offers"}
    kinds, _ = read(tmp_path, json.dumps(mug), kind="product")
    assert [row["id"] for row in kinds["documents"]] == ["1"]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (
            '{"articles": [{"title": "a"}], "count": 1}',
            {},
            "one object; name the field with the rows, as `records: art",
        ),
        ('{"articles": 1}', {"records": "rows"}, "records: 'rows' holds no list; it has articles"),
        ('[{"text": "a"}', {}, "not JSON: Expecting ',' delimiter: line 1 column 15"),
        ("id,text\n1,a\n", {}, "source f.json: is no JSON array or object: it starts with 'id,text 1,a'"),
    ],
)
def test_refusals(text: str, settings: dict[str, str], message: str, tmp_path: Path):
    with pytest.raises(UserError) as raised:
        read(tmp_path, text, **settings)
    assert message in str(raised.value)


@pytest.mark.parametrize("layout", ["array", "an object a line", "pretty", "objects in turn"])
def test_json_lines_say_that_a_file_is_json(layout: str, tmp_path: Path):
    (tmp_path / "f.json").write_text(LAYOUTS[layout][0])
    with pytest.raises(UserError, match=r"source f.json: is one JSON value over its lines, .* use `type: json`"):
        JsonLines(path="f.json", kind="qa").blocks(str(tmp_path), 0, 99)
