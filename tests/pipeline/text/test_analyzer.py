"""Words for a lexical search: stop words, stems, and languages."""

import pytest

from pipeline.text.analyzer import Analyzer, languages, stop_words


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("none", "The Batteries, charging!", ["the", "batteries", "charging"]),
        ("english", "The Batteries of a charging PHONE_2", ["batteri", "charg", "phone_2"]),
        ("german", "die Häuser und Bäume", ["haus", "baum"]),
        ("finnish", "talossa ja", ["talo", "ja"]),  # bm25s lists no stop words of Finnish
        ("english", "", []),
    ],
)
def test_words_are_lower_stems_without_stop_words(language, text, words):
    assert Analyzer(language).words(text) == words


def test_languages_are_those_of_the_stemmers():
    assert languages()[0] == "none" and {"english", "german", "russian"} < set(languages())
    assert not {"porter", "dutch_porter"} & set(languages())
    assert "the" in stop_words("english") and not stop_words("none")
