"""Every system that a recipe or a search can name; a new one is a file and a line here."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from pipeline.core.config import Config, validate
from pipeline.core.plugins import Registry
from pipeline.search.reciprocal_rank import ReciprocalRank
from pipeline.search.rerank import Rerank
from pipeline.search.score_mix import ScoreMix
from pipeline.search.single_system import Dense, Lexical
from pipeline.search.system import System

AnySystem = Annotated[ScoreMix | ReciprocalRank | Rerank, Registry("system", System)]
SearchSystem = Annotated[Dense | Lexical | ScoreMix | ReciprocalRank | Rerank, Registry("system", System)]


class _Search(Config):
    system: SearchSystem = Field(default_factory=Dense)

    @field_validator("system", mode="before")
    @classmethod
    def _by_name(cls, system: Any) -> Any:
        return as_settings(system)


def as_settings(system: Any) -> Any:
    """Let `mix` mean `{type: mix}`."""
    return {"type": system} if isinstance(system, str) else system


def search_system(system: Any) -> System:
    """The system of a name, of settings, or as it is; raises UserError for an unknown one.

    >>> search_system({"type": "mix", "weight": 0.7}).describe()
    'scores mixed, those of BM25 times 0.7'
    """
    return validate(_Search, {"system": system}).system
