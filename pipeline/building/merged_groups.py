"""Groups that were merged with others, since near duplicates or answers link them: what each is called now."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.shuffle import bucket_hashes
from pipeline.text.columns import as_array

MERGED = pa.schema([("group", pa.uint64()), ("merged_group", pa.uint64())])


@dataclass(frozen=True)
class MergedGroups:
    """The common names of groups: those that near duplicates merge (by name), then those that answers merge.

    `by_answer` has rows of `MERGED`: the hash of a group's name, and the smallest one in its merged group.
    """

    by_cluster: Mapping[str, str] = field(default_factory=dict)
    by_answer: pa.Table = field(default_factory=MERGED.empty_table)

    def of(self, groups: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Names [N] of groups [N] after merging; null stays null."""
        names = as_array(groups)
        if self.by_cluster:
            names = pa.array([self.by_cluster.get(name, name) for name in names.to_pylist()], pa.string())
        if not len(self.by_answer):
            return names
        row = pc.index_in(pa.array(bucket_hashes(names.drop_null())), self.by_answer["group"].combine_chunks())
        mask = names.is_valid().to_numpy(zero_copy_only=False)
        mask[mask] = row.is_valid().to_numpy(zero_copy_only=False)
        merged = self.by_answer["merged_group"].take(row.drop_null()).to_numpy()
        return pc.replace_with_mask(names, pa.array(mask), group_names(merged))


def group_names(numbers: npt.NDArray[np.uint64]) -> pa.Array:
    """Names [N] of groups that answers merged."""
    return pa.array([f"a-{number:016x}" for number in numbers.tolist()], pa.string())
