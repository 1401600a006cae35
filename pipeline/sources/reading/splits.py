"""Which split a row belongs to: decided by the hash of its group, never by the row."""

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.core.config import Config
from pipeline.text.columns import hashes
from pipeline.text.normalize import hash64

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
HELD_OUT_ORDER = pa.array(["test", "dev", "train"])  # which split wins where one thing stands in several
_NAMES: dict[str, Split] = {name: name for name in SPLITS} | {"validation": "dev", "valid": "dev", "val": "dev"}


class SplitConfig(Config):
    """Shares of the splits among groups that no source forces into one."""

    train: float = Field(default=0.8, ge=0, le=1)
    dev: float = Field(default=0.1, ge=0, le=1)
    test: float = Field(default=0.1, ge=0, le=1)
    seed: int = 0
    by: Literal["group", "cluster"] = Field(
        default="group", description="cluster: near duplicates are in one split too; needs near_duplicates"
    )

    @model_validator(mode="after")
    def _check_sum(self) -> "SplitConfig":
        total = self.train + self.dev + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + dev + test must be 1, is {total:g}")
        return self

    def assigned(self, groups: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Splits of groups [N], as `assign` gives them."""
        share = hashes(groups, self.seed).astype(np.float64) / 2.0**64
        dev = (share < self.train + self.dev) | (self.test == 0)
        return pa.array(np.array(SPLITS)[np.where(share < self.train, 0, np.where(dev, 1, 2))], pa.string())

    def assign(self, group: str) -> Split:
        """Split of a group: stable whatever else is in the corpus, so a grown corpus moves no group."""
        share = hash64(self.seed, group) / 2**64
        if share < self.train:
            return "train"
        return "dev" if share < self.train + self.dev or self.test == 0 else "test"


def named(value: object) -> Split | None:
    """Read the name of a split as other corpora write it; None where it is none."""
    return _NAMES.get(str(value).strip().lower())
