"""Settings of the mining job."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.core.config import EncodingJobConfig, without_batch_sizes
from pipeline.encoder.encoder import EncoderConfig
from pipeline.encoder.passages import PassagesConfig
from pipeline.generation.judge import JudgeConfig
from pipeline.mining.exclusions import Exclude
from pipeline.mining.registry import Lexical, Rule
from pipeline.mining.reranker import CandidateScorerConfig
from pipeline.mining.threshold_rule import ThresholdRule
from pipeline.search.exact_index import Exact
from pipeline.search.registry import AnyIndex

SPEED = ("num_actors", "block_rows", "cache")  # decide how fast, not what
SEARCH = ("split", "top_k", "index", "lexical", "exclude", "passages", "rows_per_shard")  # decide the candidates


class MineConfig(EncodingJobConfig):
    """Find hard negatives for training pairs: an encoder searches the corpus for each anchor, and a rule chooses."""

    common_settings: ClassVar[tuple[str, ...]] = (
        "run",
        "encoder.model",
        "encoder.max_length",
        "top_k",
        "rule.num_negatives",
        "rule.max_percentage",
        "index",
        "lexical",
        "cross_encoder",
        "overwrite",
    )
    documentation = "pipeline/README.md"

    data: str | None = Field(None, description="artifact of build; default {run}/data")
    out: str | None = Field(None, description="default {run}/negatives")
    encoder: EncoderConfig = Field(default_factory=EncoderConfig, description="the model that searches")
    split: str = Field("train", description="pairs of this split get negatives")
    top_k: int = Field(50, ge=1, description="candidates kept for an anchor")
    passages: PassagesConfig | None = Field(
        None, description="a document is as near as its best passage, such as {tokens: 128}; default: its whole text"
    )
    index: AnyIndex = Field(
        default_factory=Exact, description="how the nearest are searched: exact, flat, hnsw, ivfpq or lance"
    )
    lexical: Lexical | None = Field(None, description="a search by words besides the vectors: bm25, or your own class")
    cross_encoder: CandidateScorerConfig | None = Field(
        None, description="the reranker that scores candidates and positives"
    )
    row_scores: Literal["cosine", "cross_encoder"] = Field(
        "cosine", description="scores that the rows carry: those that margin_mse and kl take for their teacher's"
    )
    judge: JudgeConfig | None = Field(
        None, description="a language model that is asked whether a selected candidate answers the anchor after all"
    )
    rule: Rule = Field(default_factory=ThresholdRule, description="which candidates become negatives")
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

    @field_validator("lexical", mode="before")
    @classmethod
    def _bm25_by_default(cls, value: Any) -> Any:
        return {"type": "bm25", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _rule_can_be_applied(self) -> "MineConfig":
        required = self.rule.min_candidates
        if required > self.top_k:
            raise ValueError(f"top_k {self.top_k} is below the {required} candidates that the rule needs; raise top_k")
        if self.rule.needs_cross and self.cross_encoder is None:
            raise ValueError("rule asks for reranker scores; name the reranker in cross_encoder.model")
        if self.row_scores == "cross_encoder" and self.cross_encoder is None:
            raise ValueError("row_scores cross_encoder: name the reranker in cross_encoder.model")
        if self.rule.needs_lexical and self.lexical is None:
            raise ValueError("rule asks for BM25 scores; give `lexical: {}`")
        return self

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that decide the result, without those of speed and memory."""
        settings = {key: value for key, value in super().result_settings().items() if key not in SPEED}
        if self.judge is None:
            del settings["judge"]  # so that what was mined before there were judges stays usable
        else:
            settings["judge"] |= {"generator": self.judge.generator.result_settings()}
        return without_batch_sizes(settings)

    def search_settings(self) -> dict[str, Any]:
        """Return the settings that decide the candidates of an encoded corpus, besides the vectors.

        Passages stand among them where there are some: mined without, candidates of earlier versions stay usable.
        """
        settings = {name: value for name, value in self.result_settings().items() if name in SEARCH}
        return settings if self.passages else {name: settings[name] for name in settings if name != "passages"}
