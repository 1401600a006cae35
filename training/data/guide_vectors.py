"""Guide vectors: what another model makes of the training texts, computed beforehand, to doubt negatives of a batch.

They are artifacts of the embed job, looked up by id, and travel with the rows of a step as the bits of float16 among
the 64-bit ids, without gradient: any query has a guide's score with any document of the global batch, and no second
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
from pipeline.text.normalize import hash64

Ints = npt.NDArray[np.int64]
Halves = npt.NDArray[np.float16]
WORD = 4  # float16 in 64 bits


class GuideConfig(Config):
    """Where a guide's vectors are: two artifacts of `embed` with the same model, roles query and document."""

    queries: str
    documents: str


@dataclass(frozen=True)
class Guide:
    """Vectors [V, G] float16 of a guide, the last one NaN for what has none, and the place of each text in them."""

    vectors: Halves
    query_at: Ints  # [n]
    positive_at: Ints  # [n]
    negative_at: list[Ints]

    def part(self, rows: slice) -> "Guide":
        """The same for some of the rows."""
        return Guide(self.vectors, self.query_at[rows], self.positive_at[rows], self.negative_at[rows])

    def bytes(self) -> dict[str, pa.Array]:
        """Vectors of queries, positives and negatives, end to end, as bytes of float16; null where there is none."""
        negatives = np.concatenate([np.zeros(0, np.int64), *self.negative_at])
        places = {"query": self.query_at, "positive": self.positive_at, "negative": negatives}
        return {name: pa.array([self._one(place) for place in at.tolist()], pa.binary()) for name, at in places.items()}

    def _one(self, place: int) -> builtins.bytes | None:
        vector = self.vectors[place]
        return None if np.isnan(vector[0]) else vector.tobytes()


def opened(config: GuideConfig | None) -> dict[str, Artifact]:
    """Open the artifacts of a guide by their names among a run's inputs."""
    if config is None:
        return {}
    found = {f"guide {name}": Artifact.open(absolute(path), "embed") for name, path in config.model_dump().items()}
    models = {one.manifest.inputs.get("encoder") for one in found.values()}
    if len(models) > 1:
        raise UserError("guide: queries and documents were embedded by different models; embed both with one")
    return found


def load(found: dict[str, Artifact], query_id: Ints, positive_id: Ints, negative_id: list[Ints]) -> Guide:
    """Look up the vectors of all texts of the rows by their 64-bit ids.

    An anchor is looked for among the queries first, a document among the documents first. Texts without a vector are
    counted and told; the guide doubts none of their negatives. Raises UserError when none has one.
    """
    lengths = [len(row) for row in negative_id]
    documents = np.concatenate([positive_id, *negative_id])
    wanted = np.unique(np.concatenate([query_id, documents]))
    tables = [_read(found[name], wanted) for name in ("guide queries", "guide documents")]
    widths = {vectors.shape[1] for _, vectors in tables}
    if len(widths) > 1:
        raise UserError(f"guide: vectors are {' and '.join(map(str, sorted(widths)))} long; embed both with one model")
    (queries, first), (others, second) = tables
    none = np.full((1, first.shape[1]), np.nan, np.float16)
    vectors = np.concatenate([first, second, none])
    query_at = _either(_places(queries, query_id, 0), _places(others, query_id, len(queries)))
    document_at = _either(_places(others, documents, len(queries)), _places(queries, documents, 0))
    missing = int((query_at < 0).sum() + (document_at < 0).sum())
    if missing == len(query_at) + len(document_at):
        raise UserError("guide: holds no vector of any training text; embed the queries and corpus of this data")
    if missing:
        say(f"guide: {missing:,} of {len(query_at) + len(document_at):,} texts of the rows have no vector")
    negative_at = np.split(document_at[len(positive_id) :], np.cumsum(lengths)[:-1])
    return Guide(vectors, query_at, document_at[: len(positive_id)], negative_at)


def _read(artifact: Artifact, wanted: Ints) -> tuple[Ints, Halves]:
    """Hashed ids [V], rising, and vectors [V, G] float16 of those that are wanted; G padded to whole words."""
    ids: list[Ints] = [np.zeros(0, np.int64)]
    parts: list[Halves] = []
    for name in artifact.files("vectors"):
        table = _file(artifact, name)
        hashes = np.array([hash64(one) >> 1 for one in table["id"].to_pylist()], dtype=np.int64)
        kept = np.isin(hashes, wanted)
        column = table["vector"].combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
        parts.append(np.pad(flat[kept].astype(np.float16), ((0, 0), (0, -flat.shape[1] % WORD))))
        ids.append(hashes[kept])
    found, vectors = np.concatenate(ids), np.concatenate(parts)
    order = np.argsort(found, kind="stable")
    return found[order], np.ascontiguousarray(vectors[order])


def _file(artifact: Artifact, name: str) -> pa.Table:
    table = read_parquet(name)
    kind = table.schema.field("vector").type
    if not (pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)):
        raise UserError(
            f"guide {artifact.path}: vectors are {kind}, wanted float16 or float32; embed with dtype float16"
        )
    return table


def _places(found: Ints, ids: Ints, start: int) -> Ints:
    """Places of ids in the rising `found`, counted from `start`; -1 for none."""
    if not len(found):
        return np.full(len(ids), -1, np.int64)
    at = np.searchsorted(found, ids).clip(max=len(found) - 1)
    return np.where(found[at] == ids, at + start, -1).astype(np.int64)


def _either(first: Ints, second: Ints) -> Ints:
    return np.where(first >= 0, first, second)
