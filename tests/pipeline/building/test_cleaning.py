"""Cleaning: boilerplate taken out, texts cut to tokens, other languages left out, all of it counted."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.building.cleaning import CleanConfig
from pipeline.building.read import TextLimits, clean
from pipeline.core.errors import UserError
from pipeline.sources.reading.record import Parsed
from pipeline.text.normalize import key


def cleaned(texts: list[str], **settings: Any) -> tuple[list[str], Parsed]:
    records = [{"id": str(n), "text": text, "line": n, "source": "s", "order": n} for n, text in enumerate(texts, 1)]
    parsed = Parsed({"queries": records})
    table = clean(parsed, TextLimits(2, 1000, CleanConfig(**settings)))["queries"]
    found = table["text"].to_pylist()
    assert table["key"].to_pylist() == [key(text) for text in found]
    return found, parsed


def test_boilerplate_is_taken_out():
    patterns = [r"(?i)possible duplicate:\s*", r"https?://\S+"]
    found, parsed = cleaned(
        ["Possible Duplicate:\n How? http://x.y/z", "Why?", "https://only.link"], boilerplate=patterns
    )
    assert found == ["How?", "Why?"]
    assert parsed.tally.counts["boilerplate_removed"] == 2 and parsed.tally.dropped == {"empty_text": 1}


@pytest.mark.parametrize("pattern", ["(", "x*"])
def test_patterns_that_cannot_be(pattern: str):
    with pytest.raises(ValidationError, match=r"no regular expression|matches nothing at all"):
        CleanConfig(boilerplate=[pattern])


def test_texts_are_cut_after_a_token(minilm: str):
    found, parsed = cleaned(["unbelievable headphones are here", "short"], max_tokens=2, tokenizer=minilm)
    assert found == ["unbelievable", "short"]  # the second token is the first half of a word
    assert parsed.tally.counts["cut_to_tokens"] == 1
    with pytest.raises(ValidationError, match="go together"):
        CleanConfig(max_tokens=3)
    with pytest.raises(UserError, match="no such directory"):
        cleaned(["a text"], max_tokens=1, tokenizer="./none")


def test_other_languages_are_left_out():
    pytest.importorskip("py3langid", reason="the extra [language] is not installed")
    english = "This is a long enough sentence about headphones, kitchens and running shoes."
    german = "Das ist ein ausreichend langer Satz \u00fcber Kopfh\u00f6rer, K\u00fcchen und auch Laufschuhe."
    found, parsed = cleaned([english, german, "Kurz."], languages=["en"])
    assert found == [english, "Kurz."]
    assert parsed.tally.dropped == {"other_language": 1} and parsed.tally.offenders[0][0] == 2


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    from pipeline.building.cleaning import _identifier

    _identifier.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "py3langid.langid", None)
    with pytest.raises(UserError, match=r"tripletail\[language\]"):
        cleaned(["x" * 80], languages=["en"])
