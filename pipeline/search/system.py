"""Systems: what finds documents for a query, made of the rankings of an encoder and of BM25.

A system is a subclass of `System` in a file of its own and one line in systems.py. Evaluations name it in
`systems: [{type: mix}]`, or in short `systems: [mix]`, searches in `--system mix`, mining in `lexical: {system: mix}`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import Field

from pipeline.core.config import Plugin
from pipeline.search.exact import TopK


class System(Plugin):
    """A system of an encoder and BM25, whose rankings it joins.

    A subclass that looks at one of the two says so by `dense` or `lexical`, and the other is not searched.
    """

    dense: ClassVar[bool] = True
    lexical: ClassVar[bool] = True
    rescores: ClassVar[bool] = False  # reads the texts of what it has ranked, and orders them anew

    models: list[str] | None = Field(
        None, description="encoders that it is made of, a system with each; default all that are compared"
    )
    name: str | None = Field(None, description="how its rows are called, after the encoder's name; default its type")
    top: int = Field(100, ge=1, le=100, description="documents of each ranking that it looks at")

    @property
    def label(self) -> str:
        """Its name after that of an encoder."""
        return self.name or self.type.rpartition(":")[2].lower()

    @property
    def needs(self) -> tuple[bool, bool]:
        """Whether an encoder's ranking and BM25's are needed."""
        return self.dense, self.lexical

    @property
    def joined(self) -> int:
        """How many documents of each ranking it joins."""
        return self.top

    def depth(self, k: int) -> int:
        """How many documents of each ranking it looks at to rank k."""
        return max(self.joined, k)

    def choices(self) -> Sequence[Self]:
        """One system for each setting that may be chosen on judged queries, the default first; none if all are set."""
        return ()

    @abstractmethod
    def rank(self, dense: TopK, lexical: TopK, k: int) -> TopK:
        """The best k documents of each query, from `top` or fewer of an encoder and of BM25."""

    @abstractmethod
    def describe(self) -> str:
        """How it ranks, in words, such as `scores mixed, those of BM25 times 0.5`."""

    def settings(self) -> dict[str, Any]:
        """Its settings without those that say what it is made for."""
        return self.model_dump(mode="json", exclude={"models", "name"})
