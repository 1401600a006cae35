"""Cleaning beyond the normal form: boilerplate by regular expression, length in tokens, language."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.storage.counts import Counts
from pipeline.text.normalize import normalise, shorten

_TOKENIZED = 1024  # texts that are tokenized at once


class CleanConfig(Config):
    """Cleaning of every text after its normal form; all of it is off by default."""

    boilerplate: list[str] = Field(default=[], description="regular expressions; what they match is removed")
    max_tokens: int | None = Field(default=None, ge=1, description="longer texts are cut after this token")
    tokenizer: str | None = Field(default=None, description="model whose tokenizer counts `max_tokens`")
    languages: list[str] = Field(default=[], description="ISO 639-1 codes to keep; needs the extra [language]")
    language_min_chars: int = Field(default=60, ge=1, description="shorter texts are kept: their language is a guess")
    language_confidence: float = Field(default=0.9, gt=0, le=1, description="probability from which a text is left out")

    @field_validator("boilerplate")
    @classmethod
    def _check_patterns(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                empty = re.compile(pattern).match("")
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
            if empty:
                raise ValueError(f"{pattern!r} matches nothing at all, and with it everywhere")
        return patterns

    @model_validator(mode="after")
    def _check_tokenizer(self) -> "CleanConfig":
        if (self.max_tokens is None) != (self.tokenizer is None):
            raise ValueError("max_tokens and tokenizer go together: tokens are those of a model")
        return self

    def without_boilerplate(self, texts: pa.Array, tally: Counts) -> pa.Array:
        """Texts [N] without what the patterns match, in normal form again."""
        if not self.boilerplate:
            return texts
        before = texts.to_pylist()
        after = [text if text is None else self._without_boilerplate(text) for text in before]
        tally.counts["boilerplate_removed"] += sum(a != b for a, b in zip(after, before, strict=True))
        return pa.array(after, texts.type)

    def _without_boilerplate(self, text: str) -> str:
        for pattern in self.boilerplate:
            text = re.sub(pattern, " ", text)
        return normalise(text)

    def cut_to_tokens(self, rows: pa.Table, names: tuple[str, ...], tally: Counts) -> pa.Table:
        """Rows whose texts in the named columns have at most `max_tokens` tokens."""
        for name in names if self.max_tokens is not None else ():
            index = rows.schema.get_field_index(name)
            rows = rows.set_column(index, name, pa.array(self._cut(rows[name].to_pylist(), tally), pa.string()))
        return rows

    def _cut(self, texts: list[str], tally: Counts) -> list[str]:
        limit = self.max_tokens or 0
        long = [row for row, text in enumerate(texts) if len(text) > limit]  # a token has a character at least
        for start in range(0, len(long), _TOKENIZED):
            batch = long[start : start + _TOKENIZED]
            encodings = _tokenizer(str(self.tokenizer)).encode_batch(
                [texts[row] for row in batch], add_special_tokens=False
            )
            for row, encoding in zip(batch, encodings, strict=True):
                if len(encoding.ids) > limit:
                    texts[row] = shorten(texts[row], encoding.offsets[limit - 1][1])
                    tally.counts["cut_to_tokens"] += 1
        return texts

    def other_languages(self, rows: Iterable[tuple[str, ...]]) -> dict[int, str]:
        """Indices of rows with a text in none of `languages`, and the language of that text."""
        others = {}
        for row, texts in enumerate(rows):
            for text in texts:
                if len(text) < self.language_min_chars:
                    continue
                language, probability = _identifier().classify(text)
                if language not in self.languages and probability >= self.language_confidence:
                    others[row] = f"{language} ({probability:.2f}): {text[:40]!r}"
                    break
        return others


@lru_cache(maxsize=2)
def _tokenizer(name: str) -> Any:
    from tokenizers import Tokenizer

    from pipeline.encoder.model_directory import resolve_model  # brings torch, for which few builds have a use

    path = f"{resolve_model(name)}/tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"cleaning.tokenizer {name}: has no readable tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@lru_cache(maxsize=1)
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UserError("cleaning.languages: install it with `pip install 'tripletail[language]'`") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
