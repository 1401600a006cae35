"""The page: valid, self-contained, escaped, and honest in its headline."""

import re
from dataclasses import replace

import pytest
from lxml import html

from pipeline.report.findings import Findings
from pipeline.report.page import render
from pipeline.report.wording import decimal, headline, leakage, metric_name, p_value, remarks, shorten, signed
from tests import told
from tests.told import HOSTILE, comparison, figures, kept


@pytest.fixture
def findings():
    return told.findings()


def test_page_parses_and_holds_what_it_should(findings):
    text = render(findings)
    page = html.document_fromstring(text)
    assert text.startswith("<!doctype html>")
    assert [h.text_content() for h in page.iter("h2")] == [
        "At a glance",
        "Models",
        "Against base",
        "Training",
        "Similarities",
        "Smaller vectors",
        "Map of the corpus",
        "Queries",
        "Data and leakage",
        "How it was measured",
        "Where it comes from",
    ]
    assert len(page.findall(".//figure")) == 9 and len(list(page.iter("svg"))) == 8
    assert len(page.findall(".//details")) == 3
    assert len(page.xpath("//svg[@class='map']/circle")) == 800
    assert len(page.xpath("//tbody[@class='below']/tr")) == 1 + 11
    assert "query without relevant document" in page.text_content()
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert {a or b for a, b in wanted} <= set(ids)


def test_what_it_kept(findings):
    guarded = replace(findings, guards=[kept(0.368, 0.302, 0.00005)])
    page = html.document_fromstring(render(guarded))
    (table,) = [part for part in page.iter("section") if part.findtext("h2") == "What it kept"]
    assert [cell.text_content() for cell in table.iter("th")] == [
        "Corpus",
        "Metric",
        "Before, base",
        "After, tuned",
        "Difference",
        "p",
    ]
    lines = [[cell.text_content() for cell in row.iter("td")] for row in table.iter("tr")][1:]
    corpus = f"{HOSTILE}, dev"
    assert lines[0] == [corpus, "nDCG@10", ".368", ".302", "-.066-.076 to -.056", "< 0.0001"]
    assert lines[1] == [corpus, "Hit@1", ".430", ".610", "+.180", "-"]
    assert lines[2] == [corpus, "Triplet accuracy", ".500", ".500", "+0.000", "-"]
    assert f"On {HOSTILE} nDCG@10 is .368 before, .302 after (p < 0.0001)." in page.findtext(".//p[@class='lead']")
    assert "What it kept" not in render(findings)
    assert "What it kept" not in render(replace(guarded, subject="base"))
    assert "<script" not in render(guarded)


def test_every_tag_is_closed(findings):
    text = render(findings)
    for tag in (
        "section",
        "div",
        "table",
        "tr",
        "td",
        "th",
        "figure",
        "svg",
        "details",
        "ol",
        "li",
        "p",
        "dl",
        "style",
    ):
        assert len(re.findall(rf"<{tag}[\s>]", text)) == text.count(f"</{tag}>"), tag


def test_page_loads_nothing(findings):
    page = html.document_fromstring(render(findings))
    assert not list(page.iter("script", "link", "iframe", "object", "embed", "img", "image"))
    loaded = [
        value for value in page.xpath("//@src | //@href | //@*[name()='xlink:href']") if not value.startswith("#")
    ]
    assert not loaded
    styles = "".join(page.xpath("//style/text() | //@style"))
    assert not re.search(r"@import|https?:|url\((?!#)", styles)


def test_hostile_text_stays_text(findings):
    text = render(replace(findings, guards=[kept(0.4, 0.3, 0.5)]))
    page = html.document_fromstring(text)
    assert "<script" not in text and "<img" not in text
    assert not [a for a in page.xpath("//@*") if a.is_attribute and a.attrname.startswith("on")]
    shown = page.xpath("//summary/span[@class='query']/text()")
    assert shown == [shorten(HOSTILE)] * 2


def test_colours_come_from_the_page(findings):
    text = render(findings)
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert "var(--series-1)" in drawn and "var(--ink-soft)" in drawn
    assert not re.search(r"#0102|#000000|#ffffff", drawn)
    assert "prefers-color-scheme: dark" in text


def test_page_is_the_same_twice(findings):
    assert render(findings) == render(findings)


def test_page_with_one_model_and_nothing_else():
    alone = {"base": {"spearman": 0.871}}
    page = render(Findings("run", "dev", 0, 0, "base", "base", ["ndcg@10"], alone, []))
    assert "base reaches Spearman .871." in page
    assert "<figure" not in page and "<details" not in page


def test_headline(findings):
    assert headline(findings) == (
        "tuned finds the right answer first for 61% of unseen queries, base 43%; nDCG@10 .512 against .401, p = 0.0002"
    )
    unsure = replace(findings, comparisons=[comparison(0.111, 0.2)])
    assert headline(unsure).endswith("p = 0.200, a difference that chance may explain")
    assert "of queries," in headline(replace(findings, split="train"))
    alone = replace(findings, subject="base", comparisons=[])
    assert headline(alone) == "base finds the right answer first for 43% of unseen queries; nDCG@10 .401"


def test_a_better_model_is_named(findings):
    better = replace(findings, figures={"bm25": figures(0.6, 0.7), **findings.figures})
    assert remarks(better)[-1] == "Best of all is bm25, with nDCG@10 .600."
    assert not [line for line in remarks(findings) if "Best" in line]


def test_numbers():
    assert [decimal(v) for v in (0.5124, 1.0, 0.0, -0.05, 0.9999, -0.0001)] == [
        ".512",
        "1.000",
        "0.000",
        "-.050",
        "1.000",
        "0.000",
    ]
    assert [signed(v) for v in (0.1, -0.1)] == ["+.100", "-.100"]
    assert [p_value(v) for v in (0.00002, 0.0002, 0.031, 1.0)] == ["< 0.0001", "0.0002", "0.031", "1.000"]
    assert [metric_name(k) for k in ("ndcg@10", "map", "recall@100")] == ["nDCG@10", "MAP", "Recall@100"]


def test_texts_are_cut_between_words():
    assert shorten("a  b\nc") == "a b c"
    cut = shorten("word " * 100, 50)
    assert len(cut) <= 50 and cut.endswith("word ...")


def test_the_page_says_what_leaked(findings):
    assert leakage(findings) == ["Nobody looked whether training rows repeat what is asked here."]
    checked = {"checked": 5000, "queries": 112, "labelled_pairs": 0, "shared_documents": 7, "found": {}}
    checked |= {"action": "remove", "near": True, "threshold": 0.8, "extra": [HOSTILE]}
    clean = replace(findings, leakage=checked)
    assert leakage(clean)[1] == "None leaks." and "Jaccard .80" in leakage(clean)[0]
    leaky = replace(findings, leakage=checked | {"found": {"near_leaked_query": 3}, "shared_documents": 0})
    assert leakage(leaky)[1:] == ["Removed before training: 3 near leaked query."]
    kept = replace(leaky, leakage=dict(leaky.leakage) | {"action": "report"})
    assert "figures may be too high: 3 near leaked query" in leakage(kept)[1]
    assert "3 near leaked query" in render(kept) and HOSTILE not in render(kept)
