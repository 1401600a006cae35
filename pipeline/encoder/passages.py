"""Documents cut into passages at sentence ends, each of at most so many tokens of an encoder's own tokenizer.

    cutter = PassageCutter(encoder, PassagesConfig(tokens=128, overlap=16))
    spans = cutter.cut([text])[0]  # [(0, 512), (430, 981), ...], characters of the text

Passages are made where texts are embedded, not in `build`: their length is counted by the tokenizer of a model, which a
corpus does not know, and judgments, pairs, duplicates and BM25 are about documents. So a corpus stays one of documents,
another model needs no new build, and a table of vectors holds several rows a document, with its id. What ranks them
goes by documents: the score of one is that of its best passage.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.late_chunking import require_late_chunking
from pipeline.encoder.tokenizer import Ints, Range

_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s++(?![a-z])|[。！？]+[”’」』）]*+\s*+|\n\s*+")  # noqa: RUF001
_WORD_END = re.compile(r"(?<=\S)\s+")
_MIN_ROOM = 4  # tokens of the text itself that a passage must have room for


class PassageCut(Config):
    """How documents are cut into passages."""

    tokens: int = Field(128, ge=8, description="of a passage at most, prompt and special tokens included")
    overlap: int = Field(
        0, ge=0, description="tokens at most that a passage repeats of the one before, from the start of a sentence"
    )

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.overlap > self.tokens // 2:
            raise ValueError(f"overlap {self.overlap} is more than half of a passage of {self.tokens} tokens")
        return self


class PassagesConfig(PassageCut):
    """How documents are cut into passages, and how the scores of passages become that of their document."""

    full_text: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the whole text's score, cut at max_length, in that of a document; the rest is its best "
        "passage's",
    )
    late: bool = Field(
        False,
        description="vectors of passages out of token states of the whole text, as far as the encoder reads (late "
        "chunking); for models of 2k tokens and more that pool by the mean",
    )


def cut_text(text: str, token_ends: Ints, tokens: int, overlap: int = 0) -> list[Range]:
    """Cut a text into spans of at most `tokens` tokens, which cover it in order; none of an empty text.

    `token_ends` [T] are the characters at which its tokens end, rising. A span ends with a sentence where one fits,
    else with a word, else with a token. It begins where the one before ended, or up to `overlap` tokens earlier: at the
    start of a sentence, or of a word where no sentence is so short. A sentence, or what is left of one, that fits into
    a span of its own but not beside the overlap gets less of it.
    """
    boundaries = _Boundaries(text, token_ends.tolist(), tokens)
    spans: list[Range] = []
    start = end = 0
    while end < len(text):
        stop = boundaries.stop(start, end)
        spans.append((start, stop))
        start, end = boundaries.next_start(start, stop, overlap), stop
    return spans


class _Boundaries:
    """Where a text may be cut: after sentences, words and tokens, all rising and ending with the text."""

    def __init__(self, text: str, token_ends: list[int], tokens: int) -> None:
        self.ends, self.tokens, self.length = token_ends, tokens, len(text)
        self.sentences = self._until_end({match.end() for match in _SENTENCE_END.finditer(text)})
        self.words = self._until_end({match.end() for match in _WORD_END.finditer(text)})
        self.pieces = self._until_end(set(token_ends))

    def _until_end(self, boundaries: set[int]) -> list[int]:
        return sorted({boundary for boundary in boundaries if 0 < boundary < self.length} | {self.length})

    def size(self, start: int, end: int) -> int:
        """Tokens between two boundaries."""
        return bisect_right(self.ends, end) - bisect_right(self.ends, start)

    def _reach(self, start: int) -> int:
        """First boundary that is too far for a span from `start`: where one token too many ends."""
        last = bisect_right(self.ends, start) + self.tokens
        return self.ends[last] if last < len(self.ends) else self.length + 1

    def _last(self, boundaries: list[int], start: int, after: int) -> int | None:
        """The last boundary behind `after` that a span from `start` may reach."""
        index = bisect_left(boundaries, self._reach(start)) - 1
        return boundaries[index] if index >= 0 and boundaries[index] > after else None

    def stop(self, start: int, after: int) -> int:
        """Where a span from `start` ends, behind `after`."""
        for boundaries in (self.sentences, self.words, self.pieces):
            if (boundary := self._last(boundaries, start, after)) is not None:
                return boundary
        return self.pieces[bisect_right(self.pieces, after)]  # several tokens of one character

    def next_start(self, start: int, end: int, overlap: int) -> int:
        """Where the span behind one from `start` to `end` begins."""
        if not overlap or end == self.length:
            return end
        repeated = (
            self._inside(self.sentences, start, end, overlap) or self._inside(self.words, start, end, overlap)[:1]
        )
        for boundary in repeated:
            if self._last(self.sentences, boundary, end) is not None:
                return boundary
        if not repeated or self._last(self.sentences, end, end) is not None:
            return end
        return repeated[0]

    def _inside(self, boundaries: list[int], start: int, end: int, overlap: int) -> list[int]:
        """Places between two others that lie at most `overlap` tokens before the second."""
        inside = boundaries[bisect_right(boundaries, start) : bisect_left(boundaries, end)]
        return [boundary for boundary in inside if self.size(boundary, end) <= overlap]


@dataclass(frozen=True)
class PassageCutter:
    """Cuts documents by the tokenizer of an encoder.

    Raises UserError where a passage would be longer than the encoder reads, or leaves no room for text beside the
    prompt.
    """

    encoder: Encoder
    config: PassageCut

    def __post_init__(self) -> None:
        tokens, reach = self.config.tokens, self.encoder.role_max_length("document")
        if tokens > reach:
            raise UserError(f"passages.tokens {tokens}: the encoder cuts documents at {reach} tokens; raise max_length")
        if (room := self.room) < max(_MIN_ROOM, self.config.overlap + 1):
            raise UserError(f"passages.tokens {tokens}: leaves {room} beside prompt and special tokens; give more")
        if self.late:
            require_late_chunking(self.encoder, tokens)

    @property
    def late(self) -> bool:
        """Whether vectors are made by late chunking."""
        return isinstance(self.config, PassagesConfig) and self.config.late

    @property
    def room(self) -> int:
        """Tokens that prompt and special tokens leave."""
        return self.config.tokens - self.encoder.whole_lengths([""], "document")[0]

    def cut(self, texts: Sequence[str]) -> list[list[Range]]:
        """Spans of each text, in order.

        A passage is counted again as it will be embedded: where a tokenizer makes more tokens of it than it made of
        this part of the whole text, the text is cut anew into as many fewer.
        """
        room = self.room
        ends = self.encoder.token_ends(texts)
        spans = [
            cut_text(text, boundaries, room, self.config.overlap) for text, boundaries in zip(texts, ends, strict=True)
        ]
        waiting = {index: room for index in range(len(texts))}
        while excess := self._excess(texts, spans, list(waiting)):
            waiting = {index: max(1, waiting[index] - over) for index, over in excess.items() if waiting[index] > 1}
            for index, tokens in waiting.items():
                spans[index] = cut_text(texts[index], ends[index], tokens, min(self.config.overlap, tokens - 1))
        return spans

    def _excess(self, texts: Sequence[str], spans: list[list[Range]], rows: list[int]) -> dict[int, int]:
        """By how many tokens the longest passage of some texts is too long, for those where it is."""
        owners = [index for index in rows for _ in spans[index]]
        cut = [passage for index in rows for passage in passages(texts[index], spans[index])]
        excess: dict[int, int] = {}
        for index, length in zip(owners, self.encoder.whole_lengths(cut, "document"), strict=True):
            if length > self.config.tokens:
                excess[index] = max(excess.get(index, 0), length - self.config.tokens)
        return excess


def passages(text: str, spans: Sequence[Range]) -> list[str]:
    """Texts of spans, without white space around them; a text that is one span stays as it is."""
    return [text] if len(spans) == 1 else [text[start:end].strip() for start, end in spans]
