"""Settings of the generation job."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.core.config import Config, EncodingJobConfig, without_batch_sizes
from pipeline.encoder.encoder import EncoderConfig
from pipeline.generation.prompts import PROMPTS, check_template
from pipeline.generation.registry import AnyGenerator
from pipeline.generation.rules import Rules
from pipeline.search.bm25 import BM25Config
from pipeline.storage.files import join

SPEED = frozenset({"num_actors", "data", "input", "round_trip", "generator", "block_queries"})
PLACES = frozenset({"text", "title", "count"})


class RoundTrip(Config):
    """A query is kept where a search for it finds its document again (Promptagator, Dai et al. 2023: top 1)."""

    top_k: int = Field(1, ge=1, description="ranks among which the document must be")
    by: list[Literal["encoder", "bm25"]] = Field(["encoder"], min_length=1, description="what searches")
    found_by: Literal["any", "all"] = Field("any", description="of several searches: one must find it, or all")
    encoder: EncoderConfig = Field(default_factory=EncoderConfig, description="the model that searches")
    bm25: BM25Config = Field(default_factory=BM25Config, description="the search by words")


class GenerateConfig(EncodingJobConfig):
    """Make queries of documents, by a language model or by rules, and keep those that find their document again."""

    common_settings = (
        "run",
        "data",
        "input",
        "generator",
        "queries",
        "prompt",
        "round_trip",
        "seed",
        "out",
        "overwrite",
    )
    documentation = "scripts/README.md"

    data: str | None = Field(None, description="artifact of build with the documents; default {run}/data")
    input: str | list[str] | None = Field(
        None, description="instead of data: Parquet, JSON lines, CSV, TSV or text; files, directories or globs"
    )
    id_column: str | None = Field(None, description="default: doc_id of data, 'id' of an input")
    text_column: str = Field("text", description="column with the text of a document")
    title_column: str | None = Field(None, description="column with its title; default: title of data, none of files")
    generator: AnyGenerator = Field(
        default_factory=Rules, description="what makes queries: openai (an address), transformers or rules"
    )
    queries: int = Field(3, ge=1, le=100, description="queries of a document at most")
    prompt: str | None = Field(
        None,
        description="of a language model, with {text}, {title} and {count}; default: in pipeline/generation/prompts.py",
    )
    answers: Literal["json", "text"] = Field(
        "json", description="an answer is a JSON array of all queries, or one query of so many that are asked for"
    )
    attempts: int = Field(2, ge=1, description="times that a document is asked about while answers are malformed")
    max_document_chars: int = Field(4000, ge=1, description="of a document that a prompt shows")
    max_query_chars: int = Field(300, ge=8, description="longer queries are left out")
    round_trip: RoundTrip | None = Field(
        default_factory=RoundTrip, description="keep queries that find their document; null: keep all"
    )
    seed: int = Field(0, description="of the sampling, with the id of each document")
    out: str | None = Field(None, description="default {run}/generated")
    rows_per_shard: int = Field(128, ge=1, description="documents of one output file, the unit that a restart repeats")
    block_queries: int = Field(16384, ge=1, description="queries that are searched for in one pass over the documents")

    @field_validator("prompt")
    @classmethod
    def _is_prompt(cls, prompt: str | None) -> str | None:
        return None if prompt is None else check_template(prompt, PLACES, frozenset({"text"}))

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if self.data and self.input:
            raise ValueError("give data or input, not both")
        return self

    @property
    def path(self) -> str:
        """Directory of the artifact."""
        return self.out or join(self.run, "generated")

    @property
    def full_prompt(self) -> str:
        """The prompt that is used."""
        return self.prompt or PROMPTS[self.answers]

    def result_settings(self) -> dict[str, Any]:
        """Settings that decide the answers, with the whole prompt; filter and documents are inputs of the job."""
        settings = super().result_settings()
        deciding = {name: value for name, value in settings.items() if name not in SPEED}
        return deciding | {"prompt": self.full_prompt, "generator": self.generator.result_settings()}

    def filter_settings(self) -> dict[str, Any]:
        """Settings of the filter, without those that change no result."""
        return without_batch_sizes({"round_trip": super().result_settings()["round_trip"]})
