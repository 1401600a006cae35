"""The publishing job: a store made equal to an artifact of vectors, by what is new, changed or gone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipeline.core.config import JobConfig
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, say
from pipeline.core.schema import PASSAGE
from pipeline.search.documents import document_columns
from pipeline.search.index import ArtifactVectors
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import join, open_parquet
from pipeline.storage.lease import acquire
from pipeline.stores.points import key_hashes, points_of
from pipeline.stores.registry import AnyStore
from pipeline.stores.store import DIGEST, KEY, Shape, Target


class PublishConfig(JobConfig):
    """Bring vectors into a database, with ids and columns: what is new or changed is sent, what is gone is deleted."""

    common_settings = ("run", "vectors", "column", "columns", "store", "batch", "max_deleted")
    documentation = "scripts/README.md"

    vectors: str | None = Field(None, description="artifact of embed; default {run}/vectors")
    column: str = Field("vector", description="column of the vectors, such as vector_int8_128; sent as float32")
    columns: list[str] | None = Field(None, description="columns that go with them; default: all that there are")
    store: AnyStore = Field(description="where to: pgvector, qdrant, lancedb or opensearch, and its settings")
    batch: int = Field(1000, ge=1, description="points that are sent at once")
    max_deleted: float = Field(
        0.5, ge=0, le=1, description="share of the store's points above which deleting is refused"
    )


@dataclass(frozen=True)
class Published:
    """What a run did: points that the store had not, had otherwise, had as they are, and had but should not have."""

    inserted: int
    updated: int
    unchanged: int
    deleted: int


def run(config: PublishConfig) -> Published:
    """Make a store hold the points of an artifact and no others, sending only what differs.

    The store itself says what it holds, by a hash of each point. So the same command does what is missing, after a
    kill, after a change of the artifact, and after somebody else's deletion; with nothing to do it writes nothing.
    Raises UserError for a store that cannot be opened, one of another shape, and where more than `max_deleted` of its
    points would be deleted.
    """
    config.store.check_installed()
    vectors = Artifact.open(config.vectors or join(config.run, "vectors"), "embed")
    blocks, payload = ArtifactVectors(vectors, config.column), payload_columns(vectors, config.columns)
    if not blocks.count:
        raise UserError(f"{vectors.path}: holds no vector; nothing is published, and nothing deleted")
    columns = [_schema(blocks.files[0]).field(name).remove_metadata() for name in payload]
    shape = Shape(blocks.dim, "dot" if blocks.similarity == "dot" else "cosine", pa.schema(columns))
    lease = acquire(join(vectors.path, "published"), "publish")
    try:
        target = config.store.open(shape)
        try:
            counts = _make_equal(config, target, blocks, payload)
        finally:
            target.close()
    finally:
        lease.release()
    say(
        f"publish: {config.store.label}: {counts.inserted:,} inserted, {counts.updated:,} updated, "
        f"{counts.unchanged:,} unchanged, {counts.deleted:,} deleted: {blocks.count:,} points"
    )
    return counts


def payload_columns(vectors: Artifact, columns: Sequence[str] | None) -> list[str]:
    """Columns that go with the vectors; raises UserError for one that is not there or that the store needs itself."""
    there = [name for name in document_columns(list(vectors.manifest.tables["vectors"].columns)) if name != "id"]
    chosen = there if columns is None else list(columns)
    if missing := sorted(set(chosen) - set(there)):
        raise UserError(f"{vectors.path}: has no column '{missing[0]}'; choose from {', '.join(there) or 'none'}")
    if reserved := sorted({KEY, DIGEST} & set(chosen)):
        raise UserError(
            f"{vectors.path}: column '{reserved[0]}' has a name that the store needs; leave it out by --columns"
        )
    return chosen


def _schema(path: str) -> pa.Schema:
    with open_parquet(path) as file:
        return file.schema_arrow


def _make_equal(config: PublishConfig, target: Target, blocks: ArtifactVectors, payload: Sequence[str]) -> Published:
    """Send what differs, then delete what is gone, and count the points that are there then."""
    counts: Counter[str] = Counter()
    present: list[npt.NDArray[np.uint64]] = []
    with Progress("publish", blocks.count, "points") as progress:
        for table in _batches(blocks, payload, config.batch):
            points = points_of(table, config.column, blocks.ranges, payload)
            digests = target.digests([point.key for point in points])
            inserted = [point for point in points if point.key not in digests]
            updated = [point for point in points if digests.get(point.key, point.digest) != point.digest]
            if inserted or updated:
                target.upsert([*inserted, *updated])
            counts.update(inserted=len(inserted), updated=len(updated))
            counts["unchanged"] += len(points) - len(inserted) - len(updated)
            present.append(key_hashes([point.key for point in points]))
            progress.add(len(points), f"{counts['inserted']:,} new, {counts['updated']:,} changed")
    gone = vanished(target, np.sort(np.concatenate(present)))
    _require_few(config, len(gone), blocks.count + len(gone))
    for start in range(0, len(gone), config.batch):
        target.delete(gone[start : start + config.batch])
    target.finish()
    if (there := target.count()) != blocks.count:
        raise UserError(
            f"publish: {config.store.label}: holds {there:,} points in place of {blocks.count:,}; another job may have "
            "written into it; run the same command again"
        )
    return Published(counts["inserted"], counts["updated"], counts["unchanged"], len(gone))


def _batches(blocks: ArtifactVectors, payload: Sequence[str], size: int) -> Iterator[pa.Table]:
    passages = [name for name in PASSAGE.names if name in _schema(blocks.files[0]).names]
    names = dict.fromkeys(["id", *passages, *payload, blocks.column])
    for table in shards.read_batches(blocks.files, list(names)):
        for start in range(0, table.num_rows, size):
            yield table.slice(start, size)


def vanished(target: Target, present: npt.NDArray[np.uint64]) -> list[str]:
    """Keys that a store holds and an artifact does not, whose hashes are `present`, rising."""
    gone: list[str] = []
    for keys in target.all_keys():
        hashes = key_hashes(keys)
        at = np.searchsorted(present, hashes).clip(max=len(present) - 1)
        gone += [key for key, is_there in zip(keys, present[at] == hashes, strict=True) if not is_there]
    return gone


def _require_few(config: PublishConfig, gone: int, total: int) -> None:
    """Raise UserError where so much would be deleted that the artifact is rather not the one that was meant."""
    if gone > config.max_deleted * total:
        raise UserError(
            f"publish: {config.store.label}: {gone:,} of {total:,} points are not in the artifact any more, more than "
            f"--max_deleted {config.max_deleted:g} of them; nothing is deleted. If that is meant, raise it"
        )
