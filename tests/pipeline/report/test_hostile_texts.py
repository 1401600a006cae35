"""Texts that want to break out: of pages, of formulas' cells in a spreadsheet, of the terminal."""

import csv
import io
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from lxml import html

from pipeline.metrics.registry import TASKS
from pipeline.report.format import printable
from pipeline.report.page import render
from pipeline.report.spreadsheet import csv_text
from tests.support import report_data as support

PAYLOADS = {
    "script": "<script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "end of style": "</style></title></textarea><svg onload=alert(1)>",
    "comment": "--><img src=x onerror=alert(1)><!--",
    "template": "{{ 7 * 7 }}{% for x in y %}${7*7}#{7*7}",
    "entity": "&lt;script&gt;&#60;b&#62;",
    "formula of matplotlib": r"$\frac{1$ $\unknown{}$",
    "link": "javascript:alert(1)//http://evil.example/a.png",
}
KEYS = {"ci95", "dim", "encoder", "f1_threshold", "model", "baseline", "metric", "difference", "won", "lost", "p_value"}
KEYS |= {"p_holm", "dtype", "bytes", "comparisons", "step", "epoch", "loss", "lr", "pairs_per_s", "float32", "int8"}
KEYS |= {"binary", "test", "other", "ndcg@10", "hit@1", "t-SNE", *TASKS}


def poisoned(value, payload):
    """A copy with the payload at the end of every text that is no key of ours."""
    if isinstance(value, str):
        return value if value in KEYS else f"{value}{payload}"
    if isinstance(value, list):
        return [poisoned(item, payload) for item in value]
    if isinstance(value, dict):
        return {poisoned(key, payload): poisoned(item, payload) for key, item in value.items()}
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name != "metric_info"]
        return replace(value, **{name: poisoned(getattr(value, name), payload) for name in names})
    assert value is None or isinstance(value, int | float | bool | np.ndarray), type(value)
    return value


SVG = {"g", "path", "defs", "use", "text", "clippath", "rect", "tspan"}  # what matplotlib draws with, as HTML is read


def shape(text):
    """Tags of a page in their order, with the names of their attributes; without the inside of plots.

    How many ticks a plot has depends on the width of its labels.
    """
    page, parts = html.document_fromstring(text), []
    for element in page.iter():
        plots = [above for above in element.iterancestors("svg") if above.get("class") != "map"]
        if plots and isinstance(element.tag, str):
            assert element.tag in SVG, element.tag
            assert not [name for name in element.attrib if name.startswith("on")]
        elif isinstance(element.tag, str):
            parts.append((element.tag, sorted(element.attrib)))
    return parts


@pytest.fixture(scope="module")
def full():
    return replace(support.report_data(), guards=[support.retention(0.4, 0.3, 0.5)])


@pytest.fixture(scope="module")
def harmless_shape(full):
    return shape(render(poisoned(full, " harmless words")))


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_no_text_changes_what_a_report_is_made_of(full, harmless_shape, payload):
    page = render(poisoned(full, payload))
    parts = shape(page)
    assert parts == harmless_shape, "the same elements with the same attributes"
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form"} & {tag for tag, _ in parts}
    assert not [name for _, names in parts for name in names if name.startswith("on")]
    assert all(value.startswith("#") for value in html.document_fromstring(page).xpath("//@href | //@src"))
    assert "49" not in "".join(html.document_fromstring(page).xpath("//p[@class='over']//text()")), "nothing expands it"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r", "\n=", "  =", "＝", "＠"])  # noqa: RUF001
def test_no_text_of_a_csv_is_a_formula(start):
    text = csv_text(["id", "query", "score"], [[f"{start}cmd|' /C calc'!A0", 'say "=1"', -0.25]])
    assert text.startswith("\ufeff")
    (_, row) = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    assert row[0] == f"'{start}cmd|' /C calc'!A0" and row[1:] == ['say "=1"', "-0.25"], "numbers stay numbers"


def test_plain_texts_of_a_csv_stay_as_they_are():
    texts = ["red chair", "a = b", "e-mail @ home", "", "'quoted'", "10 - 20"]
    (_, *rows) = csv.reader(io.StringIO(csv_text(["t"], [[text, 1] for text in texts])))
    assert [row[0] for row in rows] == texts


def test_no_escape_sequence_reaches_a_terminal():
    assert printable("a\x1b[2J\x1b]0;title\x07b\u202ec\x9b1m") == "a\ufffd[2J\ufffd]0;title\ufffdb\ufffdc\ufffd1m"
    assert printable("é 中 \t ok") == "é 中 \t ok"
