"""Late chunking: vectors of passages out of the token states of the text around them (Günther et al. 2024).

The transformer reads as much of a text as it can at once, and each passage is the mean of its own tokens' states, which
have seen the others: "it" and "the company" keep what they stand for. A text of one passage has the vector that it
always has. What is longer than the encoder reads is read in windows of whole passages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.tokenizer import Ints, Range

LEAST_PASSAGES = 2  # that a window must have room for; else late chunking changes nothing


@dataclass(frozen=True)
class Window:
    """Tokens of passages that follow each other in the text of a number, and where each of them stands in these."""

    owner: int
    tokens: list[int]
    ranges: list[Range]


def require_late_chunking(encoder: Encoder, tokens: int) -> None:
    """Raise UserError for an encoder whose vectors are not means of token states, or that reads too little at once."""
    if not encoder.pools_tokens:
        raise UserError("passages.late: this encoder's vectors are not the mean of token states; leave late out")
    if (reach := encoder.role_max_length("document")) < LEAST_PASSAGES * tokens:
        raise UserError(
            f"passages.late: the encoder reads {reach} tokens at once, less than two passages of {tokens}; raise "
            "max_length, or take a model that reads more"
        )


def windows(encoder: Encoder, texts: Sequence[str], spans: Sequence[Sequence[Range]]) -> list[Window]:
    """Windows of all passages, in order: each holds as many of a text as the encoder reads at once."""
    reach = encoder.role_max_length("document")
    room = reach - encoder.whole_lengths([""], "document")[0]
    ends = encoder.token_ends(texts)
    parts = [
        (owner, part)
        for owner, (of_text, token_ends) in enumerate(zip(spans, ends, strict=True))
        for part in _windows_of(of_text, token_ends, room)
    ]
    return _tokenised(encoder, texts, parts, reach)


def _windows_of(spans: Sequence[Range], ends: Ints, room: int) -> list[Sequence[Range]]:
    """Cut the passages of a text into windows of at most so many tokens."""
    parts, first = [], 0
    for index in range(1, len(spans) + 1):
        if index == len(spans) or _size(ends, spans[first][0], spans[index][1]) > room:
            parts.append(spans[first:index])
            first = index
    return parts


def _size(ends: Ints, start: int, end: int) -> int:
    first, last = np.searchsorted(ends, [start, end], side="right")
    return int(last - first)


def _tokenised(
    encoder: Encoder, texts: Sequence[str], parts: Sequence[tuple[int, Sequence[Range]]], reach: int
) -> list[Window]:
    """Tokenise windows; one that is longer than it was in the whole text is read in two halves."""
    contents = [texts[owner][part[0][0] : part[-1][1]] for owner, part in parts]
    tokenised: list[Window] = []
    for (owner, part), (tokens, ends) in zip(parts, encoder.document_tokens(contents), strict=True):
        if len(tokens) > reach and len(part) > 1:
            half = len(part) // 2
            tokenised += _tokenised(encoder, texts, [(owner, part[:half]), (owner, part[half:])], reach)
            continue
        starts = np.searchsorted(ends, [start - part[0][0] for start, _ in part], side="right")
        stops = np.searchsorted(ends, [end - part[0][0] for _, end in part], side="right")
        starts[0] = encoder.prompt_length("document")
        ranges = [(int(first), min(int(last), reach)) for first, last in zip(starts, stops, strict=True)]
        tokenised.append(Window(owner, tokens[:reach], ranges))
    return tokenised
