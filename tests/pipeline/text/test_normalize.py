"""Rules for text: what is cleaned away, and that keys and hashes never move."""

import unicodedata

import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.sources.reading.splits import SplitConfig, parse_split
from pipeline.text.normalize import hash64, html_to_text, identifier, key, normalise, shorten


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>One</p><p>two &amp; three</p>", "One two & three"),
        ("a<br>b<br/>c", "a b c"),
        ("<ul><li>x</li><li>y</li></ul>", "x y"),
        ("<b>bo</b>ld", "bold"),
        ("keep<script>alert('<p>')</script> this<style>p{}</style>", "keep this"),
        ("caf&eacute; &#8212; &#x41;", "caf\u00e9 \u2014 A"),
        ("a < b and vector<int> stays", "a < b and vector<int> stays"),
        ("AT&T; R&D", "AT&T; R&D"),
        ("<p>broken <b>tag", "broken tag"),
        ("<p>a<!-- hidden -->b\x00</p>", "ab"),
        ("", ""),
    ],
)
def test_html_becomes_text(markup: str, text: str):
    assert normalise(html_to_text(markup)) == text


def test_deeply_nested_html_is_read():
    assert "core" in html_to_text("<div>" * 3000 + "core" + "</div>" * 3000)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("  a\t\n b\r\n", "a b"),
        ("\ufb01ne \u2460 \uff21", "fine 1 A"),
        ("e\u0301", "\u00e9"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen\x07", "zerowidth softhyphen"),
        ("half \ud83d pair", "half pair"),
        ("no\u00a0break", "no break"),
        ("10\u207b\u00b3 m\u00b2, \u33a1, H\u2082O", "10\u207b\u00b3 m\u00b2, m\u00b2, H\u2082O"),
        ("\u00bd cup\u2026 Acme\u2122 don\u00b4t", "\u00bd cup... Acme\u2122 don\u00b4t"),
        ("x \u2208 \u211d, \U0001d431", "x \u2208 \u211d, \U0001d431"),
        ("\uff8a\uff9f\uff9d", "\u30d1\u30f3"),
    ],
)
def test_normal_form(raw: str, text: str):
    assert normalise(raw) == text
    assert normalise(text) == text


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
@example("x \u00b4 \u00bd\u2003\u2460")
def test_keys_and_with_them_ids_are_those_of_nfkc(text: str):
    compatible = " ".join(unicodedata.normalize("NFKC", normalise(text)).split())
    assert key(normalise(text)) == xxhash.xxh3_128_digest(compatible.casefold().encode())
    assert normalise(normalise(text)) == normalise(text)


def test_texts_that_compare_as_one_are_stored_as_they_are():
    assert key(normalise("10\u207b\u00b3 \u00bd")) == key("10\u22123 1\u20442")
    assert normalise("10\u207b\u00b3 \u00bd") != "10\u22123 1\u20442"


def test_keys_ignore_case_only():
    assert key("Stra\u00dfe A") == key("STRASSE a") != key("strasse b")
    assert len(key("")) == 16


def test_hashes_are_the_same_on_every_machine():
    assert hash64(0, "q1") == 0xDCC69FCDBB9D96A6
    assert hash64("a", "bc") != hash64("ab", "c")
    assert key("Tripletail").hex() == "94e1cf81ce42b46f0854a6624624f97a"


def test_shorten_cuts_at_a_blank():
    assert shorten("one two three", 9) == "one two"
    assert shorten("one two", 7) == "one two"
    assert shorten("x" * 30, 10) == "x" * 10


def test_identifiers_are_left_as_they_are():
    assert identifier(" <dbpedia:\uff21> ") == "<dbpedia:\uff21>"
    assert identifier("a\ud800b") == "ab"


def test_splits_follow_the_shares_and_never_move():
    config = SplitConfig(train=0.8, dev=0.1, test=0.1)
    groups = [f"group {number}" for number in range(20_000)]
    assigned = [config.assign(group) for group in groups]
    shares = {name: assigned.count(name) / len(groups) for name in ("train", "dev", "test")}
    assert shares == pytest.approx({"train": 0.8, "dev": 0.1, "test": 0.1}, abs=0.01)
    assert assigned == [config.assign(group) for group in groups]
    assert [SplitConfig(seed=1).assign(group) for group in groups] != assigned
    assert {SplitConfig(train=0.5, dev=0.5, test=0).assign(group) for group in groups} == {"train", "dev"}


def test_shares_must_sum_to_one():
    with pytest.raises(ValueError, match=r"must be 1, is 1\.1"):
        SplitConfig(train=0.8, dev=0.2, test=0.1)


def test_names_of_splits():
    assert [parse_split(name) for name in ("train", "validation", " DEV ", "judgments", None)] == [
        "train",
        "dev",
        "dev",
        None,
        None,
    ]
