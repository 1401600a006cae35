"""Texts into the words that a lexical search compares: lower case, without stop words, as Snowball stems."""

import re
from functools import lru_cache
from typing import Any

NONE = "none"
_WORD = re.compile(r"(?u)\b\w+\b")
_OTHER_STEMMERS = {"porter", "dutch_porter"}  # older stemmers of languages that have one already
_REMEMBERED = 1 << 20  # words whose stems are held


class Analyzer:
    """The words of texts in one language; with `none` they are lower-cased and nothing else.

    Stems are Snowball's (PyStemmer), stop words are those that bm25s lists for the language; one without a list there
    has stems alone. Both are looked up word by word, and the last million of them are remembered.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._stop_words = stop_words(language)
        self._stemmer = _stemmer(language)
        self._stem = lru_cache(_REMEMBERED)(self._look_up)

    def words(self, text: str) -> list[str]:
        """Words of a text in their order; stop words are left out."""
        return [stem for word in _WORD.findall(text.lower()) if (stem := self._stem(word))]

    def _look_up(self, word: str) -> str:
        """Stem of a word, empty for a stop word."""
        if word in self._stop_words:
            return ""
        return str(self._stemmer.stemWord(word)) if self._stemmer else word


def languages() -> list[str]:
    """Languages that an analyzer knows, `none` first."""
    import Stemmer

    return [NONE, *sorted(set(Stemmer.algorithms()) - _OTHER_STEMMERS)]


def stop_words(language: str) -> frozenset[str]:
    """Stop words of a language; empty where bm25s has none."""
    from bm25s import stopwords

    names = {"english": "STOPWORDS_EN"}
    return frozenset(getattr(stopwords, names.get(language, f"STOPWORDS_{language.upper()}"), ()))


def _stemmer(language: str) -> Any:
    """Snowball's stemmer of a language, None for `none`; it caches nothing, since the analyzer does."""
    import Stemmer

    return None if language == NONE else Stemmer.Stemmer(language, 0)
