"""What every type of index is: settings in a recipe that build it from vectors, and that open it for search."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from pipeline.core.config import Plugin
from pipeline.core.errors import UserError
from pipeline.search.exact import Floats, Rows, top_k
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import open_parquet
from pipeline.storage.vectors import Ranges, comparable, similarity_of, to_matrix


class VectorBlocks(ABC):
    """Vectors [N, D] that are streamed in blocks, in the order of their rows, as often as needed."""

    dim: int
    count: int

    @abstractmethod
    def __iter__(self) -> Iterator[Floats]:
        """Yield blocks [n, D]."""

    def sample(self, count: int) -> Floats:
        """Return every N/count-th vector, rounded so that there are at most `count`."""
        step, parts, row = self.sample_step(count), [], 0
        for block in self:
            parts.append(block[-row % step :: step])
            row += len(block)
        return np.concatenate(parts)

    def sample_step(self, count: int) -> int:
        """Return the distance of the rows in a sample of `count`."""
        return max(1, -(-self.count // count))


class FileVectors(VectorBlocks):
    """The column `vector` of Parquet files, as it is. Raises UserError where the files hold no row."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files, self.count, self.dim = files, 0, 0
        for path in files:
            with open_parquet(path) as parquet:
                self.count += parquet.metadata.num_rows
                self.dim = parquet.schema_arrow.field("vector").type.list_size
        if not self.count:
            raise UserError("index: no document has a text")

    def __iter__(self) -> Iterator[Floats]:
        """Yield the vectors of one row group after the other."""
        for table in shards.read_batches(self.files, ["vector"]):
            yield to_matrix(table["vector"], {})


class ArtifactVectors(VectorBlocks):
    """A column of vectors of an artifact of embed, decoded to float32; for the cosine scaled to length 1.

    Passages that hold a share of their whole text stay as they are: their length is part of a document's score.
    """

    def __init__(self, artifact: Artifact, column: str = "vector") -> None:
        self.files, self.column, self.count = artifact.files("vectors"), column, artifact.rows("vectors")
        mixed = (artifact.manifest.notes.get("passages") or {}).get("full_text", 0) > 0
        self.similarity = "dot" if mixed else similarity_of(artifact.manifest.notes.get("encoder"))
        self.ranges: Ranges = artifact.manifest.notes.get("calibration", {})
        columns = artifact.manifest.tables["vectors"].columns
        if column not in columns or not column.startswith("vector"):
            names = ", ".join(name for name in columns if name.startswith("vector"))
            raise UserError(f"{artifact.path}: has no column of vectors '{column}'; it has {names}")
        self.dim = next(iter(self)).shape[1]

    def __iter__(self) -> Iterator[Floats]:
        """Yield the vectors of one row group after the other."""
        for table in shards.read_batches(self.files, [self.column]):
            yield comparable(to_matrix(table[self.column], self.ranges), self.similarity)


class WatchedVectors(VectorBlocks):
    """Vectors whose reading is reported; a sample is read in silence."""

    def __init__(self, vectors: VectorBlocks, on_rows: Callable[[int], None]) -> None:
        self.vectors, self.on_rows = vectors, on_rows
        self.dim, self.count = vectors.dim, vectors.count

    def __iter__(self) -> Iterator[Floats]:
        """Yield blocks [n, D], and report the rows of each when it has been used."""
        for block in self.vectors:
            yield block
            self.on_rows(len(block))

    def sample(self, count: int) -> Floats:
        """Return the sample of the vectors."""
        return self.vectors.sample(count)


class SearchIndex(Protocol):
    """An index that is open for search."""

    @property
    def dim(self) -> int:
        """Width of the vectors."""

    @property
    def size(self) -> int:
        """Number of the vectors."""

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """Return inner products and rows [Q, k] of the nearest, best first; rows are -1 where there are fewer."""


@runtime_checkable
class DocumentIndex(SearchIndex, Protocol):
    """An index that stores the documents beside their vectors."""

    def documents(self, rows: Rows) -> list[dict[str, Any]]:
        """Return the documents of these rows, in their order."""


class ExactSearch:
    """Exact search over blocks of vectors that are streamed for each call."""

    def __init__(self, blocks: Iterable[Floats], dim: int, size: int) -> None:
        self.blocks, self.dim, self.size = blocks, dim, size

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """Return inner products and rows [Q, k] of the nearest, best first; rows are -1 where there are fewer."""
        return top_k(queries, self.blocks, k)


class IndexType(Plugin, ABC):
    """Settings of an index; a new type is a file with a subclass and one line in `pipeline/search/registry.py`.

    `file` is the name of what is built, inside the artifact. `approximate` says that a search may miss neighbours;
    where it is False mining searches the vectors itself, without an index. `stores_documents` says that `build` keeps
    the documents in the index, which then opens as a `DocumentIndex`.
    """

    file: ClassVar[str]
    approximate: ClassVar[bool] = True
    stores_documents: ClassVar[bool] = False

    def check_installed(self) -> None:
        """Raise UserError that names the extra where a library is missing; called before any work."""
        return None

    @abstractmethod
    def build(
        self, vectors: VectorBlocks, path: str, threads: int = 0, documents: Iterator[pa.Table] | None = None
    ) -> int:
        """Build the index at a path that may be remote, all of it or nothing; return its bytes.

        `threads` 0 means one a CPU. `documents` are tables of what goes with the vectors, in the same order; only types
        that store documents read them. Raises UserError where settings and vectors do not fit.
        """

    @abstractmethod
    def open(self, path: str, threads: int = 0) -> SearchIndex:
        """Open what `build` wrote, for inner product search."""
