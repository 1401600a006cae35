"""The settings of an encoder: which model, and what of its own settings to override."""

from typing import Literal

from pydantic import Field, field_validator

from pipeline.core.config import Config
from pipeline.encoder import model_directory
from pipeline.encoder.attention import Attention
from pipeline.encoder.backends.backend import Backend
from pipeline.encoder.precision import Dtype

Role = Literal["query", "document"]


LEAST_LENGTH = 4


class EncoderConfig(Config):
    """Which model turns text into vectors, and what of its own settings to override.

    Lengths count special tokens; those by role are written as `max_length: {query: 32, document: 256}`.
    """

    model: str = Field(model_directory.SAMPLE_MODEL, description="model directory, hub name, or gt:all-minilm-l6-v2")
    revision: str | None = Field(None, description="branch, tag or commit of a model on the hub")
    max_length: int | dict[Role, int] | None = Field(None, description="tokens a text is cut to, or by role")
    prompts: dict[str, str] | None = Field(
        None, description="texts put before a text, by name: query, document, others"
    )
    prompt_names: dict[Role, str] | None = Field(
        None, description="which of the model's prompts a role takes, such as {query: STS}; default: its own name"
    )
    layers: int | None = Field(None, ge=1, description="keep only the first transformer layers")
    truncate_dim: int | None = Field(None, ge=1, description="keep only the first dimensions of a vector")
    similarity: Literal["auto", "cosine", "dot"] = Field("auto", description="auto: what the model says it is made for")
    dtype: Dtype = Field("auto", description="compute precision; auto: bfloat16 where the hardware has it")
    backend: Backend = Field("auto", description="what computes when nothing is trained; auto: openvino on CPUs")
    attention: Attention = Field("auto", description="varlen and flash_attention_2 compute no padding")
    token_budget: int | None = Field(
        None, ge=16, description="padded tokens of one forward pass; default: 65536, on a CPU 2048, for its caches"
    )
    trust_remote_code: bool = Field(False, description="run code that the model directory brings")

    @field_validator("max_length")
    @classmethod
    def _long_enough(cls, length: int | dict[Role, int] | None) -> int | dict[Role, int] | None:
        lengths = length.values() if isinstance(length, dict) else [] if length is None else [length]
        if min(lengths, default=LEAST_LENGTH) < LEAST_LENGTH:
            raise ValueError(f"wanted {LEAST_LENGTH} tokens or more")
        return length

    @property
    def longest(self) -> int | None:
        """Tokens that the longest text of any role is cut to; None where the settings say nothing."""
        return max(self.max_length.values(), default=None) if isinstance(self.max_length, dict) else self.max_length

    def of_saved(self, path: str) -> "EncoderConfig":
        """Return settings for a model that was saved from one loaded with these: how it is computed stays.

        Which layers, prompts and length it has, how wide its vectors are and what compares them, its directory says; a
        revision is of the model on the hub that it came from.
        """
        own = ("revision", "max_length", "prompts", "prompt_names", "layers", "truncate_dim")
        return self.model_copy(update={"model": path, "similarity": "auto", **dict.fromkeys(own)})

    def budget(self, device: str) -> int:
        """Tokens of one pass: on a CPU so few that its states stay in the caches, unless the settings say otherwise."""
        return self.token_budget or (2048 if device == "cpu" else 65536)
