"""A language model as a judge: whether a document answers a query, yes or no and nothing between."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from pipeline.core.config import Config
from pipeline.generation.answers import read_yes_or_no
from pipeline.generation.language_model import Answerer, Request, ask
from pipeline.generation.ledger import Ledger
from pipeline.generation.prompts import JUDGMENT, check_template
from pipeline.generation.registry import AnyLanguageModel
from pipeline.text.normalize import hash64, shorten

PLACES = frozenset({"query", "text"})
YES_OR_NO = {"temperature": 0.0, "max_tokens": 16}  # of a judge where its settings say nothing else


class JudgeConfig(Config):
    """Which language model judges, and what becomes of answers that are neither yes nor no."""

    generator: AnyLanguageModel = Field(description="the language model: openai or transformers, as of generate")
    prompt: str = Field(JUDGMENT, description="with {query} and {text}, to be answered by yes or no")
    max_document_chars: int = Field(4000, ge=1, description="of a document that a prompt shows")
    unclear: Literal["keep", "refuse"] = Field(
        "keep", description="candidates about which the answer is neither yes nor no, or failed: stay negatives or not"
    )

    @field_validator("prompt")
    @classmethod
    def _is_prompt(cls, prompt: str) -> str:
        return check_template(prompt, PLACES, PLACES)

    def start(self, threads: int) -> "Judge":
        """Make the model ready: its answers are short, and the likeliest, unless the settings say otherwise."""
        model = self.generator
        short = {name: value for name, value in YES_OR_NO.items() if name not in model.model_fields_set}
        return Judge(self, model.model_copy(update=short).start(threads))


class Judge:
    """A judge that is ready."""

    def __init__(self, config: JudgeConfig, model: Answerer) -> None:
        self.config, self.model = config, model

    def relevant(self, queries: Sequence[str], documents: Sequence[str], ledger: Ledger) -> list[bool]:
        """Whether each document [N] answers its query [N]; answers are counted in the ledger by kind.

        Raises UserError where more requests fail than `max_failures` of the model allows.
        """
        pairs = zip(queries, documents, strict=True)
        requests = [self._request(query, document) for query, document in pairs]
        relevant = []
        for reply in ask(self.model, requests, ledger, self.config.generator.max_failures):
            verdict = None if reply.error else read_yes_or_no(reply.text)
            ledger.notes[{True: "yes", False: "no", None: "unclear"}[verdict]] += 1
            if verdict is None:
                ledger.add_example("unclear", reply.detail or repr(reply.text[:60]))
            relevant.append(self.config.unclear == "refuse" if verdict is None else verdict)
        return relevant

    def _request(self, query: str, document: str) -> Request:
        text = shorten(document, self.config.max_document_chars)
        return Request(self.config.prompt.format(query=query, text=text), hash64("judge", query, document) >> 33)
