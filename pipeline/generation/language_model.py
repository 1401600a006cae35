"""Generators that answer prompts: one interface for every language model, near or far.

    class Mine(LanguageModel):
        def start(self, threads: int) -> Answerer: ...

An `Answerer` answers requests; queries of documents and judgments of candidates are made of its answers here.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import Field

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.generation.answers import UnusableAnswer, read_queries, usable_queries
from pipeline.generation.generator import Document, Generator, Query, QueryWriter, WritingTask
from pipeline.generation.ledger import Ledger
from pipeline.text.normalize import hash64, shorten

FAILED = "http_error"


@dataclass(frozen=True)
class Request:
    """A prompt, and the seed with which its answer is sampled."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Reply:
    """The answer to a request. `error` is why there is none ("http_error", "refusal"), `detail` what was said."""

    text: str = ""
    error: str = ""
    detail: str = ""
    notes: dict[str, int] = field(default_factory=dict)  # prompt_tokens, answer_tokens, retries


class Answerer(Protocol):
    """A language model that is ready."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests [N]; what cannot be answered has an error. Raises UserError for a wrong setting."""
        ...


class Price(Config):
    """What a million tokens cost, in any currency."""

    prompt: float = Field(0.0, ge=0, description="of a million tokens of the prompts")
    answer: float = Field(0.0, ge=0, description="of a million tokens of the answers")

    def of(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Return what tokens cost."""
        return (prompt_tokens * self.prompt + answer_tokens * self.answer) / 1e6


class LanguageModel(Generator):
    """A language model, and how it answers."""

    model: str = Field(description="name that the server knows, or a model directory or hub name")
    max_tokens: int = Field(512, ge=1, description="of an answer at most")
    temperature: float = Field(0.7, ge=0, le=2, description="of sampling; 0: always the likeliest token")
    top_p: float = Field(0.95, gt=0, le=1, description="sample among the likeliest tokens of this share")
    price: Price | None = Field(None, description="of tokens, such as {prompt: 0.15, answer: 0.6} a million")
    max_failures: float = Field(
        0.1, ge=0, le=1, description="the job stops where more than this share of the requests of a shard fails"
    )

    @abstractmethod
    def start(self, threads: int) -> Answerer:
        """Make the model ready; raises UserError where it cannot be."""

    def open(self, task: WritingTask) -> QueryWriter:
        """Make a writer that asks for queries by a prompt."""
        return PromptedWriter(self.start(task.threads), task, self.max_failures)

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """Return what tokens cost, where there is a price."""
        return self.price.of(prompt_tokens, answer_tokens) if self.price else None


def ask(model: Answerer, requests: Sequence[Request], notes: Ledger, max_failures: float) -> list[Reply]:
    """Answer requests and count what it took.

    Raises UserError where more than a share of them failed: then the server is down, and what was done is kept.
    """
    replies = model.answer(requests)
    notes.notes["requests"] += len(requests)
    for reply in replies:
        notes.notes.update(reply.notes)
    failed = [reply for reply in replies if reply.error == FAILED]
    if len(failed) > max_failures * len(requests):
        raise UserError(
            f"generator: {len(failed):,} of {len(requests):,} requests failed, more than max_failures {max_failures:g} "
            f"allows; the first: {failed[0].detail}; the same command goes on where it stopped"
        )
    return replies


class PromptedWriter:
    """Asks a language model for the queries of documents; what is no answer is asked for again, with another seed."""

    def __init__(self, model: Answerer, task: WritingTask, max_failures: float) -> None:
        self.model, self.task, self.max_failures = model, task, max_failures

    def write(self, documents: Sequence[Document], ledger: Ledger) -> list[list[Query]]:
        """Make the queries of each document [N]."""
        written: list[list[Query]] = [[] for _ in documents]
        waiting = list(range(len(documents)))
        for attempt in range(self.task.attempts):
            last = attempt == self.task.attempts - 1
            waiting = self._attempt(documents, waiting, attempt, written, ledger, last=last)
            if not waiting:
                break
        return written

    def _attempt(
        self,
        documents: Sequence[Document],
        rows: list[int],
        attempt: int,
        written: list[list[Query]],
        ledger: Ledger,
        *,
        last: bool,
    ) -> list[int]:
        """Ask for the queries of some documents; return those that have none yet and are asked again."""
        draws = 1 if self.task.answers == "json" else self.task.queries
        requests = [self._request(documents[row], attempt, draw) for row in rows for draw in range(draws)]
        replies = ask(self.model, requests, ledger, self.max_failures)
        again = []
        for number, row in enumerate(rows):
            parsed, reasons = self._read(replies[number * draws : (number + 1) * draws], ledger)
            document, count = documents[row], self.task.queries
            if not parsed and not last:
                ledger.notes["answers_asked_again"] += 1
                again.append(row)
                continue
            if not parsed:
                ledger.leave_out_document(reasons[0][0], f"{document.id}: {reasons[0][1]}")
                continue
            queries = usable_queries(parsed, count, document, self.task.max_query_chars, ledger)
            if not queries:
                ledger.leave_out_document("no_usable_query", document.id)
            written[row] = [Query(query) for query in queries]
        return again

    def _read(self, replies: Sequence[Reply], ledger: Ledger) -> tuple[list[object], list[tuple[str, str]]]:
        """The queries in the replies to one document, and why others have none, with what they say."""
        parsed: list[object] = []
        reasons: list[tuple[str, str]] = []
        for reply in replies:
            try:
                if reply.error:
                    raise UnusableAnswer(reply.error)
                parsed += read_queries(reply.text, self.task.answers)
            except UnusableAnswer as problem:
                ledger.notes[f"malformed: {problem.reason}"] += 1
                reasons.append((problem.reason, reply.detail or repr(reply.text[:60])))
        return parsed, reasons

    def _request(self, document: Document, attempt: int, draw: int) -> Request:
        """The request of a document; its seed follows from the document's id alone, whatever else is asked."""
        text = shorten(document.text, self.task.max_document_chars)
        prompt = self.task.prompt.format(text=text, title=document.title, count=self.task.queries)
        return Request(prompt, hash64("generate", self.task.seed, document.id, attempt, draw) >> 33)
