"""Guide vectors: embeddings of the training texts by another model, computed beforehand.

They mask false negatives, and are what losses that distil embeddings compare with: there the guide is the teacher.

They are artifacts of the embed job, looked up by id, and travel with the rows of a step as the bits of float16 among
the 64-bit ids, without gradient: the guide can score any query with any document of the global batch, and no second
model runs while training (Solatorio 2024, GISTEmbed, arXiv 2402.16829).
"""

import builtins
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.config import Config
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import absolute, read_parquet
from pipeline.text.normalize import stable_id

Ints = npt.NDArray[np.int64]
Halves = npt.NDArray[np.float16]
PER_WORD = 4  # float16 values in a word of 64 bits


class GuideConfig(Config):
    """Where the vectors of the guide are: artifacts of `embed`, by one model, of queries and of documents."""

    queries: str
    documents: str


@dataclass(frozen=True)
class Guide:
    """Vectors [V, G] float16 of a guide, the last one NaN for texts without one, and the index of each text in them."""

    vectors: Halves
    query_index: Ints  # [n]
    positive_index: Ints  # [n]
    negative_index: list[Ints]

    def slice(self, rows: builtins.slice) -> "Guide":
        """The guide of some of the rows."""
        return Guide(self.vectors, self.query_index[rows], self.positive_index[rows], self.negative_index[rows])

    def to_binary(self) -> dict[str, pa.Array]:
        """Vectors of queries, positives and negatives, end to end, as bytes of float16; null where there is none."""
        negatives = np.concatenate([np.zeros(0, np.int64), *self.negative_index])
        indices = {"query": self.query_index, "positive": self.positive_index, "negative": negatives}
        return {
            name: pa.array([self._vector(index) for index in at.tolist()], pa.binary()) for name, at in indices.items()
        }

    def _vector(self, index: int) -> bytes | None:
        vector = self.vectors[index]
        return None if np.isnan(vector[0]) else vector.tobytes()


def open_guide(config: GuideConfig | None) -> dict[str, Artifact]:
    """Open the artifacts of a guide by their names among a run's inputs."""
    if config is None:
        return {}
    artifacts = {f"guide {name}": Artifact.open(absolute(path), "embed") for name, path in config.model_dump().items()}
    models = {artifact.manifest.inputs.get("encoder") for artifact in artifacts.values()}
    if len(models) > 1:
        raise UserError("guide: queries and documents were embedded by different models; embed both with one")
    return artifacts


def load_guide(artifacts: dict[str, Artifact], query_id: Ints, positive_id: Ints, negative_id: list[Ints]) -> Guide:
    """Look up the vectors of all texts of the rows by their 64-bit ids.

    An anchor is looked for among the queries first, a document among the documents first. Texts without a vector are
    counted in a line on the terminal; the guide masks none of their negatives. Raises UserError when no text has one.
    """
    lengths = [len(row) for row in negative_id]
    documents = np.concatenate([positive_id, *negative_id])
    ids = np.unique(np.concatenate([query_id, documents]))
    tables = [_read(artifacts[name], ids) for name in ("guide queries", "guide documents")]
    widths = {vectors.shape[1] for _, vectors in tables}
    if len(widths) > 1:
        raise UserError(f"guide: vectors are {' and '.join(map(str, sorted(widths)))} long; embed both with one model")
    (queries, first), (others, second) = tables
    none = np.full((1, first.shape[1]), np.nan, np.float16)
    vectors = np.concatenate([first, second, none])
    query_index = _first_valid(_lookup(queries, query_id, 0), _lookup(others, query_id, len(queries)))
    document_at = _first_valid(_lookup(others, documents, len(queries)), _lookup(queries, documents, 0))
    missing = int((query_index < 0).sum() + (document_at < 0).sum())
    if missing == len(query_index) + len(document_at):
        raise UserError("guide: holds no vector of any training text; embed the queries and corpus of this data")
    if missing:
        say(f"guide: {missing:,} of {len(query_index) + len(document_at):,} texts of the rows have no vector")
    negative_index = np.split(document_at[len(positive_id) :], np.cumsum(lengths)[:-1])
    return Guide(vectors, query_index, document_at[: len(positive_id)], negative_index)


def _read(artifact: Artifact, requested: Ints) -> tuple[Ints, Halves]:
    """Sorted hashed ids [V] and vectors [V, G] float16 of the requested ids; G is padded to words of 64 bits."""
    ids: list[Ints] = [np.zeros(0, np.int64)]
    parts: list[Halves] = []
    for name in artifact.files("vectors"):
        names, flat = read_vectors(artifact, name)
        hashes = np.array([stable_id(text_id) for text_id in names.to_pylist()], dtype=np.int64)
        selected = np.isin(hashes, requested)
        parts.append(np.pad(flat[selected].astype(np.float16), ((0, 0), (0, -flat.shape[1] % PER_WORD))))
        ids.append(hashes[selected])
    all_ids, vectors = np.concatenate(ids), np.concatenate(parts)
    order = np.argsort(all_ids, kind="stable")
    return all_ids[order], np.ascontiguousarray(vectors[order])


def read_vectors(artifact: Artifact, name: str) -> tuple[pa.ChunkedArray, npt.NDArray[np.floating]]:
    """Ids [V] and vectors [V, G] of one file of an artifact of the embed job.

    Raises UserError where they are stored as integers or bits.
    """
    table = read_parquet(name)
    kind = table.schema.field("vector").type
    if not (pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)):
        raise UserError(
            f"guide {artifact.path}: vectors are {kind}, wanted float16 or float32; embed with dtype float16"
        )
    column = table["vector"].combine_chunks()
    return table["id"], column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), kind.list_size)


def _lookup(sorted_ids: Ints, ids: Ints, start: int) -> Ints:
    """Indices of ids in `sorted_ids`, counted from `start`; -1 for ids that are not there."""
    if not len(sorted_ids):
        return np.full(len(ids), -1, np.int64)
    at = np.searchsorted(sorted_ids, ids).clip(max=len(sorted_ids) - 1)
    return np.where(sorted_ids[at] == ids, at + start, -1).astype(np.int64)


def _first_valid(first: Ints, second: Ints) -> Ints:
    return np.where(first >= 0, first, second)
