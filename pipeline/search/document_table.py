"""Some rows of a table in Parquet files, read again and again: only the row groups that hold them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.search.exact import Rows
from pipeline.storage.files import open_parquet

GROUP_ROWS = 1024  # of a table that is written to be read so


class DocumentTable:
    """Columns of Parquet files whose rows are numbered over all files; their footers are read once."""

    def __init__(self, files: Sequence[str], names: Sequence[str]) -> None:
        self.names = list(names)
        self.groups: list[tuple[str, int]] = []
        counts = []
        for path in files:
            with open_parquet(path) as file:
                for group in range(file.metadata.num_row_groups):
                    self.groups.append((path, group))
                    counts.append(file.metadata.row_group(group).num_rows)
        self.ends: Rows = np.cumsum(np.array(counts, np.int64))

    def take(self, rows: Rows) -> list[dict[str, Any]]:
        """Return these rows, in their order."""
        group_of = np.searchsorted(self.ends, rows, side="right")
        documents: dict[int, dict[str, Any]] = {}
        for group in np.unique(group_of).tolist():
            path, number = self.groups[group]
            with open_parquet(path) as file:
                table = file.read_row_group(number, columns=self.names)
            of_group = rows[group_of == group]
            local = of_group - (self.ends[group] - table.num_rows)
            documents.update(zip(of_group.tolist(), table.take(pa.array(local)).to_pylist(), strict=True))
        return [dict(documents[row]) for row in rows.tolist()]
