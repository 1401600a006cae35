"""What every generator of queries is: documents in, their queries out.

A generator is a subclass of `Generator` in a file of its own and one line in registry.py. One that only answers prompts
derives from `LanguageModel` (language_model.py), which makes queries with a prompt, and can judge candidates too. A
recipe may name a generator of its own by import path:

    generator: {type: my_generator:Templates}

    class Templates(Generator):                       # in my_generator.py beside the recipe
        def open(self, task):
            return self
        def write(self, documents, ledger):
            return [[Query(f"what is {document.title}")] for document in documents]
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pipeline.core.actor_pool import Pool
from pipeline.core.config import Plugin
from pipeline.generation.ledger import Ledger


@dataclass(frozen=True)
class Document:
    """A document of which queries are made; `text` begins with the title where the corpus has it so."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Query:
    """A query and, where it is about a part of its document alone, the text of that part."""

    text: str
    passage: str | None = None


@dataclass(frozen=True)
class WritingTask:
    """How many queries a document gets, and how they are asked for."""

    queries: int
    prompt: str
    answers: str  # "json": an answer is an array of all queries; "text": it is one query
    max_document_chars: int
    max_query_chars: int
    attempts: int
    seed: int
    threads: int


class QueryWriter(Protocol):
    """An opened generator."""

    def write(self, documents: Sequence[Document], ledger: Ledger) -> list[list[Query]]:
        """Make the queries of each document [N]; those that get none are counted in the ledger, each once."""
        ...


class Generator(Plugin):
    """Which generator makes queries, and its settings."""

    no_result: ClassVar[frozenset[str]] = frozenset()  # settings that change no query, such as how many run at a time

    @abstractmethod
    def open(self, task: WritingTask) -> QueryWriter:
        """Load what the generator needs; raises UserError where it cannot be used."""

    def check(self) -> None:
        """Raise UserError, before any work, for what is missing."""

    def identity(self) -> dict[str, str]:
        """What decides the queries besides the settings, such as the content of a model's files."""
        return {}

    def pool(self, num_actors: int | None, items: int) -> Pool:
        """Return the workers that generate."""
        return Pool.plan(num_actors, items, on_gpus=False)

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """Return what tokens cost; None where no price is known."""
        return None

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that decide the queries."""
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in self.no_result}
