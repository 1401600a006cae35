"""The recipe of a build."""

from pydantic import Field

from pipeline.cleaning import CleanConfig
from pipeline.config import JobConfig
from pipeline.files import join
from pipeline.pairs import PairConfig
from pipeline.read import Source
from pipeline.splits import SplitConfig
from pipeline.triplets import TripletConfig


class BuildConfig(JobConfig):
    """Turn raw corpora into training pairs, triplets and evaluation tables."""

    root: str = Field(default="", description="where relative paths of sources start")
    out: str | None = Field(default=None, description="directory of the artifact; {run}/data when not given")
    sources: list[Source] = Field(min_length=1)
    split: SplitConfig = SplitConfig()
    min_chars: int = Field(default=2, ge=1, description="shorter texts are left out")
    max_chars: int = Field(default=20_000, ge=16, description="longer texts are cut")
    cleaning: CleanConfig = CleanConfig()
    pairs: PairConfig = PairConfig()
    triplets: TripletConfig = TripletConfig()
    max_bad_share: float = Field(
        default=0.5, ge=0, le=1, description="refuse a file with more unusable rows than this share"
    )
    block_bytes: int = Field(default=32 << 20, ge=1, description="input that one task reads")
    buckets: int | None = Field(
        default=None, ge=1, le=4096, description="pieces in which rows are joined; from the input's size"
    )

    @property
    def place(self) -> str:
        """Where the artifact goes."""
        return self.out or join(self.run, "data")
