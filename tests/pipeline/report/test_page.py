"""The page: valid, self-contained, escaped, and honest in its headline."""

import re
from dataclasses import replace

import pytest
from lxml import html

from pipeline.evaluation.report_data import metric_info, truncation_sentences
from pipeline.metrics.registry import metric_label
from pipeline.report.data import ReportData
from pipeline.report.format import decimal, p_value, shorten, signed
from pipeline.report.page import render
from pipeline.report.query_groups import groups, shown_models
from pipeline.report.results import score_tables
from pipeline.report.sentences import headline, leakage, power, remarks
from tests.support import report_data as support
from tests.support.report_data import HOSTILE, comparison, retention, scores


@pytest.fixture(scope="module")
def report():
    return support.report_data()


@pytest.fixture(scope="module")
def page_text(report):
    return render(report)


def test_page_parses_and_holds_what_it_should(page_text):
    page = html.document_fromstring(page_text)
    assert page_text.startswith("<!doctype html>")
    assert [h.text_content() for h in page.iter("h2")] == [
        "At a glance",
        "Models",
        "Against base",
        "Which queries",
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
    assert len(page.findall(".//details")) == 4
    assert len(page.xpath("//svg[@class='map']/circle")) == 800
    assert len(page.xpath("//tbody[@class='below']/tr")) == 1 + 11 + 2 + 3
    assert "query without relevant document" in page.text_content()
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page_text))
    assert {a or b for a, b in wanted} <= set(ids)


def test_groups_of_queries_name_the_best_model_of_each(report):
    table = groups(report).table
    assert table.head == ["Queries", "Number", "base", "tuned"] and table.rows[0][0].text == "all"
    rows = {row[0].text: row for row in table.groups["characters of the query"]}
    assert [cell.bold for cell in rows["up to 20"][2:]] == [False, True]
    assert [cell.bold for cell in rows["over 20"][2:]] == [True, False]
    assert groups(report).sentence.startswith("For 7 of 1,200 queries nDCG@10 is 0 under every model")
    assert groups(replace(report, query_groups=[], unfound=[])) is None


def test_many_systems_are_shown_by_the_best_of_them(report):
    many = {f"system{n}": scores(0.3 + n / 100, 0.5) for n in range(9)}
    shown = shown_models(replace(report, scores={"bm25": scores(0.2, 0.2), **report.scores, **many}))
    assert shown == ["bm25", "base", "tuned", "system6", "system7", "system8"]


def test_what_it_kept(report):
    guarded = replace(report, guards=[retention(0.368, 0.302, 0.00005)])
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
    assert "What it kept" not in render(report)
    assert "What it kept" not in render(replace(guarded, subject="base"))
    assert "<script" not in render(guarded)


def test_every_tag_is_closed(page_text):
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
        assert len(re.findall(rf"<{tag}[\s>]", page_text)) == page_text.count(f"</{tag}>"), tag


def test_page_loads_nothing(page_text):
    page = html.document_fromstring(page_text)
    assert not list(page.iter("script", "link", "iframe", "object", "embed", "img", "image"))
    loaded = [
        value for value in page.xpath("//@src | //@href | //@*[name()='xlink:href']") if not value.startswith("#")
    ]
    assert not loaded
    styles = "".join(page.xpath("//style/text() | //@style"))
    assert not re.search(r"@import|https?:|url\((?!#)", styles)


def test_hostile_text_stays_text(report):
    text = render(replace(report, guards=[retention(0.4, 0.3, 0.5)]))
    page = html.document_fromstring(text)
    assert "<script" not in text and "<img" not in text
    assert not [a for a in page.xpath("//@*") if a.is_attribute and a.attrname.startswith("on")]
    shown = page.xpath("//summary/span[@class='query']/text()")
    assert shown == [shorten(HOSTILE)] * 2


def test_colours_come_from_the_page(page_text):
    svg = "".join(re.findall(r"<svg.*?</svg>", page_text, flags=re.DOTALL))
    assert "var(--series-1)" in svg and "var(--ink-soft)" in page_text
    assert not re.search(r"#0102|#000000|#ffffff", svg)
    assert "prefers-color-scheme: dark" in page_text


def test_page_is_the_same_twice(report, page_text):
    assert render(report) == page_text


def test_page_with_one_model_and_nothing_else():
    alone = {"base": {"spearman": 0.871}}
    page = render(ReportData("run", "dev", 0, 0, "base", "base", ["ndcg@10"], alone, [], metric_info(["ndcg@10"])))
    assert "base reaches Spearman .871." in page
    assert "<figure" not in page and "<details" not in page


def test_headline(report):
    assert headline(report) == (
        "tuned finds the right answer first for 61% of unseen queries, base 43%; nDCG@10 .512 against .401, p = 0.0002"
    )
    unsure = replace(report, comparisons=[comparison(0.111, 0.2)])
    assert headline(unsure).endswith("p = 0.200, a difference that chance may explain")
    assert "of queries," in headline(replace(report, split="train"))
    alone = replace(report, subject="base", comparisons=[])
    assert headline(alone) == "base finds the right answer first for 43% of unseen queries; nDCG@10 .401"


def test_a_better_model_is_named(report):
    better = replace(report, scores={"bm25": scores(0.6, 0.7), **report.scores})
    assert remarks(better)[-1] == "Best of all is bm25, with nDCG@10 .600."
    assert not [line for line in remarks(report) if "Best" in line]


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
    assert [metric_label(k) for k in ("ndcg@10", "map", "recall@100")] == ["nDCG@10", "MAP", "Recall@100"]


def test_texts_are_cut_between_words():
    assert shorten("a  b\nc") == "a b c"
    cut = shorten("word " * 100, 50)
    assert len(cut) <= 50 and cut.endswith("word ...")


def test_the_page_says_what_leaked(report):
    assert leakage(report) == ["Nobody looked whether training rows repeat what is asked here."]
    checked = {"checked": 5000, "queries": 112, "labelled_pairs": 0, "shared_documents": 7, "found": {}}
    checked |= {"action": "remove", "near": True, "threshold": 0.8, "extra": [HOSTILE]}
    clean = replace(report, leakage=checked)
    assert leakage(clean)[1] == "None leaks." and "Jaccard .80" in leakage(clean)[0]
    leaky = replace(report, leakage=checked | {"found": {"near_leaked_query": 3}, "shared_documents": 0})
    assert leakage(leaky)[1:] == ["Removed before training: 3 near leaked query."]
    kept = replace(leaky, leakage=dict(leaky.leakage) | {"action": "report"})
    assert "figures may be too high: 3 near leaked query" in leakage(kept)[1]
    assert "3 near leaked query" in render(kept) and HOSTILE not in render(kept)


def test_the_page_says_what_is_cut(report):
    note = {"role": "document", "max_length": 128, "texts": 1000, "cut_texts": 980, "tokens": 9, "cut_tokens": 3}
    cut = {"truncation": {"document": note | {"text_share": 0.98, "token_share": 0.333}}}
    (sentence,) = truncation_sentences({"bm25": {}, "base": cut, "tuned": cut})
    assert sentence.startswith("base, tuned: 98% of the documents are cut at 128 tokens")
    assert sentence in html.document_fromstring(render(replace(report, truncation=[sentence]))).text_content()


def rows_of(text, title):
    """Cells of the tables of a section."""
    page = html.document_fromstring(text)
    (part,) = [one for one in page.iter("section") if one.findtext("h2") == title]
    return [[cell.text_content() for cell in row.iter("td")] for row in part.iter("tr")]


def test_every_pair_has_a_matrix(report):
    third = {**report.scores, "third": scores(0.45, 0.5)}
    every = [*report.comparisons, comparison(0.05, 0.03, "third"), comparison(-0.062, 0.4, "third", "tuned")]
    text = render(replace(report, scores=third, comparisons=every))
    assert "Every pair, nDCG@10" in text and "Every pair" not in render(report)
    matrix = rows_of(text, "Against base")[-3:]
    assert matrix[0] == ["base", "-", "-.111p 0.0002", "-.050p 0.030"]
    assert matrix[1] == ["tuned", "+.111p 0.0002", "-", "+.062p 0.400"]
    assert matrix[2] == ["third", "+.050p 0.030", "-.062p 0.400", "-"]


def test_statistics_have_no_winners_but_thresholds(report):
    pairs = {"spearman": 0.7, "f1": 0.8, "f1_threshold": 0.61, "ci95": {"spearman": [0.6, 0.75], "f1": [0.7, 0.9]}}
    tested = {**comparison(0.1, 0.01, metric="spearman"), "won": None, "lost": None}
    only = replace(
        report, queries=0, scores={"base": pairs, "tuned": pairs}, comparisons=[tested], variants=[], guards=[]
    )
    text = render(only)
    assert ".800.700 to .900at cosine .610" in rows_of(text, "Models")[1]
    assert rows_of(text, "Against base")[1][3] == "-"
    assert "trec_eval" not in text and "Labelled pairs" not in text
    assert "Spearman .700 against .700" in headline(only)


def test_what_is_won_is_drawn_in_proportion(page_text):
    page = html.document_fromstring(page_text)
    parts = {i.get("class"): i for i in page.xpath("//div[@class='bar']/i")}
    assert {name: i.get("style") for name, i in parts.items()} == {
        "won": "flex-grow:700",
        "tied": "flex-grow:391",
        "lost": "flex-grow:109",
    }
    assert page.xpath("//div[@class='outcome']/@aria-label") == ["tuned: 700 better, 391 equal, 109 worse"]


def test_triplets_alone_have_standings_and_no_bars(report):
    own = {"triplet_accuracy": 0.6, "ci95": {"triplet_accuracy": [0.5, 0.7]}}
    tested = comparison(0.1, 0.01, metric="triplet_accuracy")
    only = replace(report, queries=0, scores={"base": own, "tuned": own}, comparisons=[tested], variants=[])
    page = html.document_fromstring(render(only))
    assert "At a glance" in [h.text for h in page.iter("h2")] and not page.xpath("//div[@class='bar']")
    assert page.findtext(".//p[@class='lead']").startswith("Triplets of split test over 9,000 documents.")


def test_the_browser_may_load_nothing(page_text):
    page = html.document_fromstring(page_text)
    assert page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content") == [
        "default-src 'none'; style-src 'unsafe-inline'"
    ]


def test_a_cut_model_says_so_and_stands_beside_the_whole_one(report):
    sizes = {"base": (6, 6), "start": (3, 6), "tuned": (3, 6)}
    counted = {name: report.scores.get(name, report.scores["base"]) for name in sizes}
    counted = {name: {**counted[name], "layers": kept, "of": of} for name, (kept, of) in sizes.items()}
    cut = replace(report, scores=counted)
    assert headline(cut).startswith(
        "tuned (3 of 6 layers) finds the right answer first for 61% of unseen queries, base (6 layers) 43%"
    )
    said = remarks(cut)
    assert "base is the model without training, 6 layers." in said
    assert "start is what training began with, untrained: 3 of 6 layers." in said
    rows = {row[0].text: row[0].small for row in score_tables(cut)[0][1].rows}
    assert rows == {"base": ("6 layers",), "start": ("3 of 6 layers",), "tuned": ("3 of 6 layers",)}
    alike = replace(report, scores={name: {**of, "layers": 6, "of": 6} for name, of in report.scores.items()})
    assert headline(alike) == headline(report), "the same size is no news"


def test_a_small_set_of_queries_says_what_it_can_show(report):
    test = {**report.comparisons[0], "detectable": 0.0712}
    few = replace(report, queries=79, comparisons=[test])
    (sentence,) = power(few)
    assert sentence.startswith("Few queries (79): a true difference in nDCG@10 below about .071 would mostly go")
    assert sentence in remarks(few) and power(replace(few, queries=100)) == []
    assert "nothing can be said of its power" in power(replace(few, comparisons=[{**test, "detectable": 0.0}]))[0]
    assert power(replace(few, comparisons=[])) == []
