"""The recipe of a mining."""

from typing import Any

from pydantic import Field, model_validator

from pipeline.core.config import JobConfig, without_batch_sizes
from pipeline.encoder.encoder import EncoderConfig
from pipeline.mining.bm25_candidates import LexicalCandidates
from pipeline.mining.exclusions import Exclude
from pipeline.mining.reranker import CrossConfig
from pipeline.mining.rules import Rule
from pipeline.search.exact_index import Exact
from pipeline.search.registry import AnyIndex

SPEED = ("num_actors", "block_rows", "cache")  # decide how fast, not what


class MineConfig(JobConfig):
    """Settings of the mining job."""

    data: str | None = Field(None, description="artifact of build; default {run}/data")
    out: str | None = Field(None, description="default {run}/negatives")
    encoder: EncoderConfig = Field(default_factory=EncoderConfig, description="the model that searches")
    split: str = Field("train", description="pairs of this split get negatives")
    top_k: int = Field(50, ge=1, description="candidates kept for an anchor")
    index: AnyIndex = Field(default_factory=Exact, description="how the nearest are found: exact, hnsw, ivfpq, lance")
    lexical: LexicalCandidates | None = Field(None, description="BM25 beside the vectors")
    cross: CrossConfig | None = Field(None, description="the reranker that scores candidates and positives")
    rule: Rule = Field(default_factory=Rule, description="which candidates become negatives")
    exclude: Exclude = Field(default_factory=Exclude, description="which documents are no candidates")
    candidates: str | None = Field(
        None, description="finished artifact of mine with the same data and encoder: choose among its candidates again"
    )
    cache: str | None = Field(None, description="directory where vectors are kept for the next mining; default: not")
    recall_rows: int = Field(256, ge=1, description="anchors on which the recall of an index is measured")
    rows_per_shard: int = Field(4096, ge=1, description="rows of one output file, the unit that a restart repeats")
    block_rows: int = Field(
        32768, ge=1, description="pairs searched in one pass over the corpus, which a restart repeats at most"
    )
    num_actors: int | None = Field(None, ge=1, description="default: one a GPU, else one for each four CPUs")

    @model_validator(mode="after")
    def _window_fits(self) -> "MineConfig":
        wanted = self.rule.skip_top + self.rule.num_negatives
        if wanted > self.top_k:
            raise ValueError(f"top_k {self.top_k} is below rule.skip_top + rule.num_negatives = {wanted}; raise top_k")
        if self.rule.needs_cross and self.cross is None:
            raise ValueError("rule asks for reranker scores; name the reranker in cross.model")
        if self.rule.needs_lexical and self.lexical is None:
            raise ValueError("rule.max_lexical_percentage needs BM25 scores; give `lexical: {}`")
        return self

    def result_settings(self) -> dict[str, Any]:
        """Leave out what changes speed and memory only."""
        return without_batch_sizes({key: value for key, value in super().result_settings().items() if key not in SPEED})

    def searching(self) -> dict[str, Any]:
        """What decides the candidates of an encoded corpus, beside the vectors."""
        names = ("split", "top_k", "index", "lexical", "exclude", "rows_per_shard")
        return {name: value for name, value in self.result_settings().items() if name in names}
