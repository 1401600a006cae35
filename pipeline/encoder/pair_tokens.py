"""Two texts as one row of tokens, as a tokenizer joins them, made of texts that were tokenised each by itself.

A query is read with many documents, and a document with several queries. Tokenised once each, without special tokens,
they are joined, and cut, when a pair is scored: to the very ids that the tokenizer gives for the two texts.
"""

from dataclasses import dataclass
from typing import Any, Self

from pipeline.core.errors import UserError
from pipeline.encoder.tokenizer import Tokens


@dataclass(frozen=True)
class PairTemplate:
    """Special tokens before, between and after two texts, and the tokens that a joined pair has at most."""

    before: list[int]
    between: list[int]
    after: list[int]
    max_length: int

    @classmethod
    def of(cls, tokenizer: Any, max_length: int) -> Self:
        """Read the template off a pair of texts; raises UserError for a tokenizer that is not a fast one."""
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise UserError("cross_encoder: its tokenizer has no fast form (tokenizer.json), which training needs")
        row = tokenizer("a", "b")
        ids, sides = list(row["input_ids"]), row.sequence_ids()
        left = [index for index, side in enumerate(sides) if side == 0]
        right = [index for index, side in enumerate(sides) if side == 1]
        return cls(ids[: left[0]], ids[left[-1] + 1 : right[0]], ids[right[-1] + 1 :], max_length)

    @property
    def room(self) -> int:
        """Tokens of both texts together that fit."""
        return self.max_length - len(self.before) - len(self.between) - len(self.after)

    def join(self, left: list[int], right: list[int]) -> tuple[list[int], int]:
        """Join two texts; returns the ids of the pair, and where those of the second text begin.

        A pair that is too long loses tokens of the longer text until both are equally long, as `longest_first` has it:
        a query of less than half the tokens stays whole.
        """
        first, second = longest_first(len(left), len(right), self.room)
        start = [*self.before, *left[:first], *self.between]
        return [*start, *right[:second], *self.after], len(start)

    def join_all(self, lefts: Tokens, rights: Tokens) -> tuple[Tokens, list[int]]:
        """Join N pairs; returns their ids and where the second text of each begins."""
        pairs = [self.join(left, right) for left, right in zip(lefts, rights, strict=True)]
        return [ids for ids, _ in pairs], [start for _, start in pairs]


def longest_first(left: int, right: int, room: int) -> tuple[int, int]:
    """Tokens that stay of two texts in `room` tokens: of the longer one fewer, until both are equally long."""
    if left + right <= room:
        return left, right
    short = min(left, right, room // 2)
    return (short, room - short) if left <= right else (room - short, short)
