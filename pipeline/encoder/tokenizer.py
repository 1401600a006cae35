"""Texts into token ids by the library `tokenizers`, without what transformers builds around each text."""

from typing import Any

Tokens = list[list[int]]


class FastTokenizer:
    """Cuts texts to `max_length` tokens, special tokens included; no padding. Threads may share it.

    Where the tokenizer has a fast form this holds a copy of it, whose settings nobody changes: transformers sets those
    of its own at each call, and builds a mask and types of each text that nothing here needs.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        original = getattr(tokenizer, "backend_tokenizer", None)
        self.fast = None if original is None else type(original).from_str(original.to_str())
        if self.fast is not None:
            self.fast.no_padding()
            self.fast.enable_truncation(max_length, direction=tokenizer.truncation_side)

    def __call__(self, texts: list[str]) -> Tokens:
        """Token ids of each text."""
        if self.fast is not None:
            return [encoding.ids for encoding in self.fast.encode_batch_fast(texts)]
        rows = self.tokenizer(texts, truncation=True, max_length=self.max_length, padding=False)["input_ids"]
        return [list(row) for row in rows]
