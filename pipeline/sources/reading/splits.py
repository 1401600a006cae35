"""Assigns rows to splits by the hash of their group, never by the row."""

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.core.config import Config
from pipeline.text.columns import hash64_column
from pipeline.text.normalize import hash64

Split = Literal["train", "dev", "test"]
SplitRule = Literal["train", "dev", "test", "hash"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
HELD_OUT_ORDER = pa.array(["test", "dev", "train"])  # which split wins where one thing stands in several
_NAMES: dict[str, Split] = {name: name for name in SPLITS} | {"validation": "dev", "valid": "dev", "val": "dev"}


class SplitConfig(Config):
    """Shares of train, dev and test among the groups whose split no source states."""

    train: float = Field(default=0.8, ge=0, le=1)
    dev: float = Field(default=0.1, ge=0, le=1)
    test: float = Field(default=0.1, ge=0, le=1)
    seed: int = 0
    rotation: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="turns the order that shares are cut from, so that other groups are test: fold i of k has i/k",
    )
    by: Literal["group", "cluster"] = Field(
        default="group", description="cluster: near duplicates are in one split too; needs near_duplicates"
    )
    by_answer: bool = Field(
        default=True, description="questions to which rows of kind qa or pair state one answer are in one split"
    )

    @model_validator(mode="after")
    def _check_sum(self) -> "SplitConfig":
        total = self.train + self.dev + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + dev + test must be 1, is {total:g}")
        return self

    def assigned(self, groups: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Return the splits of groups [N], the same as `assign` gives one by one."""
        share = (hash64_column(groups, self.seed).astype(np.float64) / 2.0**64 - self.rotation) % 1.0
        dev = (share < self.train + self.dev) | (self.test == 0)
        return pa.array(np.array(SPLITS)[np.where(share < self.train, 0, np.where(dev, 1, 2))], pa.string())

    def assign(self, group: str) -> Split:
        """Return the split of a group. It depends on the group alone, so a corpus that grows moves no group."""
        share = (hash64(self.seed, group) / 2**64 - self.rotation) % 1.0
        if share < self.train:
            return "train"
        return "dev" if share < self.train + self.dev or self.test == 0 else "test"


def parse_split(value: object) -> Split | None:
    """Read the name of a split as other corpora write it; None where it is none."""
    return _NAMES.get(str(value).strip().lower())
