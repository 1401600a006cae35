"""The recipe of a build."""

from typing import Any

from pydantic import Field, model_validator

from pipeline.building.cleaning import CleanConfig
from pipeline.building.decontamination import LeakConfig
from pipeline.building.minhash import NearConfig
from pipeline.building.pairs import PairConfig
from pipeline.building.triplets import TripletConfig
from pipeline.core.config import JobConfig
from pipeline.sources.reading.record import Prompts
from pipeline.sources.reading.splits import SplitConfig
from pipeline.sources.registry import Source
from pipeline.storage.files import join
from pipeline.storage.lines import MAX_LINE_BYTES

MAX_BUCKETS = 4096


class DecontaminateConfig(LeakConfig):
    """Training rows that repeat queries of an evaluation, of this run or of another data set."""

    extra: list[Source] = Field(
        default=[], description="further data sets whose queries and labelled pairs must not be trained on"
    )


class BuildConfig(JobConfig):
    """Turn raw corpora into clean, split tables: corpus, queries, judgments, pairs, triplets and labelled pairs."""

    common_settings = (
        "run",
        "sources",
        "root",
        "split.train",
        "pairs.title_description",
        "near_duplicates",
        "decontaminate.action",
        "strict",
        "overwrite",
    )
    documentation = "pipeline/README.md"

    root: str = Field(default="", description="directory in which relative paths of sources start")
    out: str | None = Field(default=None, description="directory of the artifact; default {run}/data")
    sources: list[Source] = Field(min_length=1, description="what to read, in the recipe: [{type: jsonl, path: ...}]")
    split: SplitConfig = SplitConfig()
    min_chars: int = Field(default=2, ge=1, description="shorter texts are left out")
    max_chars: int = Field(default=20_000, ge=16, description="longer texts are cut")
    max_line_bytes: int = Field(
        default=MAX_LINE_BYTES,
        ge=1,
        description="a longer line of a file is an unreadable row, never unpacked whole",
    )
    cleaning: CleanConfig = CleanConfig()
    pairs: PairConfig = PairConfig()
    triplets: TripletConfig = TripletConfig()
    near_duplicates: NearConfig | None = Field(
        default=None,
        description="cluster near duplicates (corpus.cluster_id, which masks and mining know), such as "
        "{threshold: 0.8}; default: off, since it takes longer than all the rest of a build",
    )
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    strict: bool = Field(
        default=False, description="refuse the result when training rows repeat queries of an evaluation"
    )
    max_bad_share: float = Field(
        default=0.5, ge=0, le=1, description="refuse a file with more unusable rows than this share"
    )
    block_bytes: int | None = Field(
        default=None, ge=1, description="input that one task reads; default 32 MiB, up to 128 where there is much"
    )
    buckets: int | None = Field(
        default=None, ge=1, le=MAX_BUCKETS, description="pieces in which rows are joined; from the input's size"
    )
    in_process_bytes: int = Field(
        default=8 << 20, ge=0, description="so much input is built in this process, without Ray; 0: always by Ray"
    )

    @model_validator(mode="after")
    def _check_clusters(self) -> "BuildConfig":
        if self.split.by == "cluster" and self.near_duplicates is None:
            raise ValueError("split.by: cluster needs near_duplicates, for example near_duplicates: {threshold: 0.8}")
        prompts: dict[str, Prompts | None] = {}
        for source in self.sources:
            if prompts.setdefault(source.label, source.prompts) != source.prompts:
                raise ValueError(f"sources named '{source.label}' have different prompts; give them different names")
        return self

    @property
    def all_sources(self) -> list[Source]:
        """Sources of the build, then those of the extra sets."""
        return [*self.sources, *(self.decontaminate.extra if self.decontaminate.action != "off" else [])]

    def result_settings(self) -> dict[str, Any]:
        """Settings that decide the tables: not `strict`, and no `prompts` where a source has none."""
        settings = {key: value for key, value in super().result_settings().items() if key != "strict"}
        for source in [*settings["sources"], *settings["decontaminate"]["extra"]]:
            if source["prompts"] is None:
                del source["prompts"]
        return settings

    @property
    def prompts(self) -> dict[str, Prompts]:
        """Prompts of the sources that have some, by the name in the tables."""
        return {source.label: source.prompts for source in self.sources if source.prompts is not None}

    @property
    def path(self) -> str:
        """Directory of the artifact."""
        return self.out or join(self.run, "data")
