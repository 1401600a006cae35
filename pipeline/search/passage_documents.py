"""An index of passages as an index of documents: it finds passages, and tells the documents that they are of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.core.schema import PASSAGE
from pipeline.search.best_passages import best_passages
from pipeline.search.exact import Floats, Rows, TopK
from pipeline.search.index import SearchIndex
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import local_file, new_file

FILE = "passages.npy"  # row of the first passage of each document, beside the index


@dataclass(frozen=True)
class PassageDocuments:
    """Documents [N] as runs of passages [P]: the row of the first passage of each, and the number of passages.

    Documents are numbered in the order of their passages.
    """

    starts: Rows
    passages: int

    @classmethod
    def read(cls, files: Sequence[str]) -> "PassageDocuments":
        """Read where documents start in files of passages."""
        starts, rows = [np.empty(0, np.int64)], 0
        for table in shards.read_batches(files, [PASSAGE.names[1]]):
            starts.append(rows + np.flatnonzero(table[PASSAGE.names[1]].to_numpy() == 0))
            rows += table.num_rows
        return cls(np.concatenate(starts), rows)

    @classmethod
    def open(cls, artifact: Artifact) -> "PassageDocuments | None":
        """Open those of an index or of embedded passages; None where vectors are of whole documents."""
        if "passages" not in artifact.manifest.notes or artifact.manifest.notes["passages"] is None:
            return None
        if artifact.manifest.kind == "embed":
            return cls.read(artifact.files("vectors"))
        with local_file(f"{artifact.path}/{FILE}") as local:
            starts: Rows = np.load(local)
        return cls(starts[:-1], int(starts[-1]))

    def save(self, path: str) -> None:
        """Write them beside an index."""
        with new_file(path) as local, local.open("wb") as file:
            np.save(file, np.append(self.starts, self.passages))

    @cached_property
    def owners(self) -> Rows:
        """Document [P] of each passage."""
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, self.passages)))

    def nearest(self, index: SearchIndex, query: Floats, k: int) -> TopK:
        """Best passage of each of the k documents nearest to a query [1, D]: scores and passage rows [1, k]."""
        return best_passages(
            lambda _, width: index.search(query, width), 1, self.owners, min(k, max(1, len(self.starts)))
        )

    def documents(self, best: TopK) -> TopK:
        """Documents of passages, in their order and with their scores."""
        return TopK(best.scores, np.where(best.rows < 0, -1, self.owners[best.rows]))

    def passages_of(self, documents: TopK, nearest: TopK) -> TopK:
        """A passage of each document [1, k]: its nearest one where that was found, else its first."""
        best = dict(zip(self.documents(nearest).rows[0].tolist(), nearest.rows[0].tolist(), strict=True))
        rows = [best.get(row, int(self.starts[row])) if row >= 0 else -1 for row in documents.rows[0].tolist()]
        return TopK(documents.scores, np.array([rows], np.int64))
