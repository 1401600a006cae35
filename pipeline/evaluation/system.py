"""Systems: what finds documents for a query, made of the rankings of an encoder and of BM25.

A system is a subclass of `System` in a file of its own and one line in systems.py; recipes name it in
`systems: [{type: mix}]`, or in short `systems: [mix]`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field

from pipeline.core.config import Plugin
from pipeline.search.exact import TopK


class System(Plugin):
    """A system of an encoder and BM25, whose rankings it joins."""

    models: list[str] | None = Field(
        None, description="encoders that it is made of, a system with each; default all that are compared"
    )
    name: str | None = Field(None, description="how its rows are called, after the encoder's name; default its type")
    top: int = Field(100, ge=1, le=100, description="documents of each ranking that it looks at")

    @property
    def label(self) -> str:
        """Its name after that of an encoder."""
        return self.name or self.type.rpartition(":")[2].lower()

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
