"""Settings of the server: what it serves, where it listens, how many replicas compute, and what it refuses."""

import ipaddress
from typing import Any, ClassVar

from pydantic import Field, field_validator

from pipeline.core.config import Config, JobConfig
from pipeline.encoder.config import EncoderConfig
from pipeline.search.systems import SearchSystem, as_settings

_BYTES_A_CHARACTER = 6  # of JSON, where every character is written as \uXXXX
_BYTES_BESIDE_TEXTS = 65_536


class LimitsConfig(Config):
    """What one request may ask for, and how many may wait; what is over a limit is refused, never cut."""

    texts: int = Field(256, ge=1, description="texts of one request")
    characters: int = Field(1_000_000, ge=1, description="characters of one request, all texts together")
    top_k: int = Field(100, ge=1, description="documents that a search may ask for")
    waiting: int = Field(64, ge=1, description="requests that one replica works on or lets wait; more get status 503")
    requests_per_s: float | None = Field(
        None, gt=0, description="requests a second, of all clients; more get status 429; default: no limit"
    )
    seconds: float = Field(60.0, gt=0, description="time that a request may take from its arrival to its answer")

    @property
    def body_bytes(self) -> int:
        """Bytes of a request's body that are read at most: enough for `characters`, however they are escaped."""
        return self.characters * _BYTES_A_CHARACTER + _BYTES_BESIDE_TEXTS


class ServeConfig(JobConfig):
    """Serve vectors of texts over HTTP, in OpenAI's form, and searches in an index, by replicas on Ray Serve."""

    common_settings = (
        "run",
        "index",
        "encoder.model",
        "systems",
        "host",
        "port",
        "replicas",
        "threads",
        "token_env",
        "limits.requests_per_s",
    )
    computed_defaults: ClassVar[dict[str, str]] = {"encoder.model": "{run}/model"}
    documentation = "scripts/README.md"

    index: str | None = Field(
        None, description="artifact of index or embed to search in; default {run}/index, else {run}/vectors, if any"
    )
    encoder: EncoderConfig | None = Field(None, description="default: the model of the index, else {run}/model")
    name: str | None = Field(None, description="what clients call the model; default: the name of its directory")
    systems: list[SearchSystem] | None = Field(
        None, description="what searches may ask for, the default first; default: dense, with BM25 also mix, rrf, bm25"
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0: all of this machine")
    port: int = Field(8000, ge=0, le=65_535, description="0: any that is free")
    replicas: int = Field(1, ge=1, description="processes that compute, each with the model and the index")
    threads: int | None = Field(None, ge=1, description="of a replica; default: its share of the machine's CPUs")
    gpus: float | None = Field(None, ge=0, description="of a replica; default: 1 where the cluster has one for each")
    token_env: str = Field(
        "TRIPLETAIL_TOKEN", description="variable with the token that requests must bear; unset: none is asked for"
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="what one request may ask for")

    @field_validator("systems", mode="before")
    @classmethod
    def _by_name(cls, systems: Any) -> Any:
        return [as_settings(system) for system in systems] if isinstance(systems, list) else systems

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
