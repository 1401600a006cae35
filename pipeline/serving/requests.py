"""What clients send: bodies of OpenAI's embeddings route and of the search route, checked whole before any work."""

import json
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator

from pipeline.core.config import Config, validate
from pipeline.core.errors import UserError
from pipeline.encoder.config import Role
from pipeline.serving.config import LimitsConfig
from pipeline.serving.refusal import Refusal

R = TypeVar("R", bound=Config)


class EmbeddingRequest(Config):
    """A body of `POST /v1/embeddings`: OpenAI's, with the role of the texts as `input_type`."""

    input: list[str] = Field(min_length=1)
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    input_type: Role = "document"
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and any(isinstance(part, int | list) for part in texts):
            raise ValueError("token ids mean nothing to another tokenizer; send a text or a list of texts")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("send a text or a list of texts")
        return texts


class SearchRequest(Config):
    """A body of `POST /search`: a query, how many documents, and the system that ranks them."""

    query: str
    top_k: int = Field(10, ge=1)
    system: str | None = None


def parse(kind: type[R], body: bytes) -> R:
    """Read a body; raises Refusal with status 400 and one line for what is wrong with it."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}", "invalid_json") from error
    if not isinstance(fields, dict):
        raise Refusal(400, "the body is not a JSON object", "invalid_json")
    try:
        return validate(kind, fields)
    except UserError as error:
        raise Refusal(400, str(error), "invalid_value") from error


def check_texts(texts: list[str], limits: LimitsConfig) -> None:
    """Raise Refusal for more texts or characters than a request may hold, and for a text that has no vector.

    A blank text and one that is no Unicode (half of a surrogate pair) have none; one of them refuses the request, as
    leaving it out would move the vectors of those behind it.
    """
    if len(texts) > limits.texts:
        raise Refusal(400, f"{len(texts)} texts are more than the {limits.texts} of one request", "too_many_texts")
    characters = sum(map(len, texts))
    if characters > limits.characters:
        message = f"{characters} characters are more than the {limits.characters} of one request"
        raise Refusal(413, message, "too_many_characters")
    for number, text in enumerate(texts):
        if not text.strip():
            raise Refusal(400, f"text {number} is blank", "blank_text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Refusal(400, f"text {number} is not Unicode: {error.reason}", "not_unicode") from error
