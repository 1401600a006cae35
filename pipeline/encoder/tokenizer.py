"""Texts into token ids by the library `tokenizers`, without what transformers builds around each text."""

from functools import cached_property
from typing import Any

from pipeline.encoder.text_prefix import encode_prefixes, splits_at_spaces

Tokens = list[list[int]]


class FastTokenizer:
    """Cuts texts to `max_length` tokens, special tokens included; no padding. Threads may share it.

    Where the tokenizer has a fast form this holds a copy of it, whose settings nobody changes: transformers sets those
    of its own at each call, and builds a mask and types of each text that nothing here needs. Of a long text only the
    first words are tokenised, where that gives the same ids.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        original = getattr(tokenizer, "backend_tokenizer", None)
        self.fast = None if original is None else type(original).from_str(original.to_str())
        if self.fast is not None:
            self.fast.no_padding()
            self.fast.enable_truncation(max_length, direction=tokenizer.truncation_side)
        keeps_first = getattr(tokenizer, "truncation_side", "right") == "right"
        self.by_prefix = self.fast is not None and keeps_first and splits_at_spaces(self.fast)

    def __call__(self, texts: list[str]) -> Tokens:
        """Token ids of each text."""
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

    @cached_property
    def _whole(self) -> Any:
        """A copy of the tokenizer that cuts nothing."""
        assert self.fast is not None
        copy = type(self.fast).from_str(self.fast.to_str())
        copy.no_truncation()
        return copy

    def _encode(self, texts: list[str]) -> Tokens:
        assert self.fast is not None
        return [encoding.ids for encoding in self.fast.encode_batch_fast(texts)]
