"""The part of a long text that truncation keeps: its first words, so that the rest is not tokenised.

Where a tokenizer splits at white space before anything else, tokens of the first words do not depend on what follows:
a prefix that ends before a space and gives as many tokens as are kept gives the same ones as the whole text.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

CHARACTERS_A_TOKEN = (6, 20)  # of the prefixes that are tried, one after the other; then the whole text
_SPLITTING = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
_LOCAL = (
    *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Nmt", "Precompiled", "Strip"),
    *("Prepend", "ByteLevel", "Metaspace", "Punctuation", "Digits", "CharDelimiterSplit", *_SPLITTING),
)


def splits_at_spaces(tokenizer: Any) -> bool:
    """Whether a tokenizer of the library `tokenizers` splits at spaces, and its steps look at one word alone."""
    described = json.loads(tokenizer.to_str())
    normalizers = list(_steps(described.get("normalizer"), "normalizers"))
    pre_tokenizers = list(_steps(described.get("pre_tokenizer"), "pretokenizers"))
    added = [token["content"] for token in described.get("added_tokens") or []]
    return (
        all(step["type"] in _LOCAL or _replaces_one_character(step) for step in normalizers)
        and all(step["type"] in _LOCAL for step in pre_tokenizers)
        and any(_splits(step) for step in pre_tokenizers)
        and not any(character.isspace() for content in added for character in content)
    )


def _steps(part: dict[str, Any] | None, name: str) -> Iterator[dict[str, Any]]:
    """Steps of a normalizer or pre-tokenizer, those of sequences among them."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for inner in part[name]:
            yield from _steps(inner, name)
    else:
        yield part


def _splits(step: dict[str, Any]) -> bool:
    kind = step["type"]
    return (
        kind in _SPLITTING
        or (kind == "ByteLevel" and step.get("use_regex", True))
        or (kind == "Metaspace" and step.get("split", True))
    )


def _replaces_one_character(step: dict[str, Any]) -> bool:
    pattern = step.get("pattern") or {}
    return step["type"] == "Replace" and len(pattern.get("String", "")) == 1 and not pattern["String"].isspace()


def prefix(text: str, length: int) -> str:
    """First words of a text within `length` characters; the text itself where it is short or has no space there."""
    if len(text) <= length:
        return text
    end = max(text.rfind(" ", 0, length), text.rfind("\n", 0, length))
    while end > 0 and text[end - 1].isspace():
        end -= 1
    return text[:end] if end > 0 else text


def encode_prefixes(
    encode: Callable[[list[str]], list[list[int]]], texts: Sequence[str], max_length: int
) -> list[list[int]]:
    """Token ids of texts, cut to `max_length`, of which only as much is tokenised as gives so many.

    `encode` gives the ids of texts, cut to `max_length`, by a tokenizer that `splits_at_spaces`.
    """
    ids: list[list[int]] = [[]] * len(texts)
    waiting = list(range(len(texts)))
    for share in CHARACTERS_A_TOKEN:
        parts = [prefix(texts[index], share * max_length) for index in waiting]
        short = []
        for index, part, row in zip(waiting, parts, encode(parts) if parts else [], strict=True):
            ids[index] = row
            if len(row) < max_length and len(part) < len(texts[index]):
                short.append(index)
        waiting = short
    for index, row in zip(waiting, encode([texts[index] for index in waiting]) if waiting else [], strict=True):
        ids[index] = row
    return ids
