"""Texts into token ids by the library `tokenizers`, without what transformers builds around each text."""

import re
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import UserError
from pipeline.encoder.text_prefix import encode_prefixes, splits_at_spaces

Tokens = list[list[int]]
Ints = npt.NDArray[np.int64]
Range = tuple[int, int]  # first token or character, and the one after the last
_WORD = re.compile(r"\S+")


class FastTokenizer:
    """Cuts texts to `max_length` tokens, special tokens included; no padding. Threads may share it.

    Where the tokenizer has a fast form this holds a copy of it, whose settings nobody changes: transformers sets those
    of its own at each call, and builds a mask and types of each text that nothing here needs. Of a long text only the
    first words are tokenised, where that gives the same ids.
    """

    def __init__(self, tokenizer: Any, max_length: int, known: int | None = None) -> None:
        """Cut texts by a tokenizer; `known` is the number of tokens that the model has a vector for, None for any."""
        self.tokenizer, self.max_length, self.known = tokenizer, max_length, known
        original = getattr(tokenizer, "backend_tokenizer", None)
        self.fast = None if original is None else type(original).from_str(original.to_str())
        if self.fast is not None:
            self.fast.encode_special_tokens = tokenizer.split_special_tokens
            self.fast.no_padding()
            self.fast.enable_truncation(max_length, direction=tokenizer.truncation_side)
        keeps_first = getattr(tokenizer, "truncation_side", "right") == "right"
        self.by_prefix = self.fast is not None and keeps_first and splits_at_spaces(self.fast)

    def __call__(self, texts: list[str]) -> Tokens:
        """Token ids of each text; raises UserError for one that holds a token which the model does not know."""
        rows = self._tokenize(texts)
        if self.known is not None:
            _require_known(self.tokenizer, texts, rows, self.known)
        return rows

    def _tokenize(self, texts: list[str]) -> Tokens:
        if self.by_prefix:
            return encode_prefixes(self._encode, texts, self.max_length)
        if self.fast is not None:
            return self._encode(texts)
        rows = self.tokenizer(texts, truncation=True, max_length=self.max_length, padding=False)["input_ids"]
        return [list(row) for row in rows]

    def whole_lengths(self, texts: list[str]) -> list[int]:
        """Tokens that each text has if nothing is cut."""
        if self.fast is None:
            return [len(row) for row in self.tokenizer(texts, truncation=False, padding=False)["input_ids"]]
        return [len(encoding) for encoding in self._whole.encode_batch_fast(texts)]

    def token_ends(self, texts: list[str]) -> list[Ints]:
        """Characters at which the tokens of each text end, rising; nothing is cut, and no special token is counted.

        A tokenizer without a fast form does not tell: the tokens of each word are then spread evenly over it.
        """
        if self.fast is not None:
            return offset_ends(self._whole, texts)
        if hasattr(self.tokenizer, "token_ends"):
            ends: list[Ints] = self.tokenizer.token_ends(texts)
            return ends
        return [self._ends_by_word(text) for text in texts]

    def with_ends(self, texts: list[str]) -> list[tuple[list[int], Ints]]:
        """Token ids of each text, special tokens included, and the characters at which they end; nothing is cut.

        Special tokens in front end at 0, those behind where the text's own tokens do. Needs a fast tokenizer.
        """
        assert self.fast is not None
        encodings = self._whole.encode_batch(texts)
        return [(row.ids, _rising_ends(row.offsets)) for row in encodings]

    def _ends_by_word(self, text: str) -> Ints:
        words = list(_WORD.finditer(text))
        rows = self.tokenizer([word[0] for word in words], add_special_tokens=False)["input_ids"] if words else []
        ends = [
            word.start() + np.ceil(np.arange(1, len(row) + 1) * len(word[0]) / len(row)).astype(np.int64)
            for word, row in zip(words, rows, strict=True)
        ]
        return np.concatenate([np.empty(0, np.int64), *ends])

    @cached_property
    def _whole(self) -> Any:
        """A copy of the tokenizer that cuts nothing."""
        assert self.fast is not None
        copy = type(self.fast).from_str(self.fast.to_str())
        copy.encode_special_tokens = self.fast.encode_special_tokens
        copy.no_truncation()
        return copy

    def _encode(self, texts: list[str]) -> Tokens:
        assert self.fast is not None
        return [encoding.ids for encoding in self.fast.encode_batch_fast(texts)]


def token_count(transformer: Any) -> int | None:
    """Number of tokens that a transformer has a vector for; None where it does not tell."""
    try:
        return int(transformer.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):
        return None


def _require_known(tokenizer: Any, texts: list[str], rows: Tokens, known: int) -> None:
    for text, row in zip(texts, rows, strict=True):
        if row and max(row) >= known:
            name = tokenizer.batch_decode([[max(row)]])[0]
            raise UserError(
                f"text {text[:60]!r}: has token {name!r}, number {max(row)}, but the model has vectors of {known} "
                "tokens; its tokenizer and its weights do not belong together"
            )


def offset_ends(tokenizer: Any, texts: list[str]) -> list[Ints]:
    """Characters at which the tokens of each text end, by a tokenizer of the library `tokenizers` that cuts nothing."""
    return [_rising_ends(row.offsets) for row in tokenizer.encode_batch(texts, add_special_tokens=False)]


def _rising_ends(offsets: list[tuple[int, int]]) -> Ints:
    ends: Ints = np.maximum.accumulate(np.array([end for _, end in offsets], np.int64))
    return ends
