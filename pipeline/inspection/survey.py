"""Statistics of an artifact, from one pass over each table, with memory that does not grow with the rows."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.inspection.repetition import Repetition
from pipeline.storage.artifact import MANIFEST, Artifact, Manifest
from pipeline.storage.files import filesystem, join, open_parquet, read_json

MAX_LENGTH = 100_000  # longer ones count as this length
COUNTED_COLUMNS = frozenset({"split", "source", "reason", "relevance"})  # columns whose values are counted
_BATCH = 8192
Numbers = npt.NDArray[np.int64]


@dataclass
class LengthHistogram:
    """How often each length occurs: characters of a text, or items of a list."""

    unit: str
    counts: Numbers = field(default_factory=lambda: np.zeros(MAX_LENGTH + 1, np.int64))

    def add(self, lengths: pa.Array) -> None:
        """Add the lengths of a batch; nulls count as 0."""
        clipped = np.minimum(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64), MAX_LENGTH)
        self.counts += np.bincount(clipped, minlength=MAX_LENGTH + 1)

    def quantile(self, share: float) -> int:
        """Smallest length that at least this share of the rows does not exceed."""
        return int(np.searchsorted(np.cumsum(self.counts), share * self.counts.sum()))


@dataclass
class NormStatistics:
    """Norms of a column of vectors."""

    rows: int = 0
    unusable: int = 0  # zero or not finite
    minimum: float = np.inf
    maximum: float = -np.inf
    total: float = 0.0

    def add(self, column: pa.Array) -> None:
        """Add the vectors of a batch."""
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        norms = np.linalg.norm(flat.reshape(len(column), -1), axis=1)
        good = norms[np.isfinite(norms) & (norms > 0)]
        self.rows += len(norms)
        self.unusable += len(norms) - len(good)
        self.total += float(good.sum())
        self.minimum = min(self.minimum, float(good.min(initial=np.inf)))
        self.maximum = max(self.maximum, float(good.max(initial=-np.inf)))


@dataclass
class TableSurvey:
    """Statistics of one table, and some of its rows."""

    name: str
    rows: int
    files: int
    columns: dict[str, str]
    lengths: dict[str, LengthHistogram] = field(default_factory=dict)
    repetition: dict[str, Repetition] = field(default_factory=dict)
    values: dict[str, Counter[str]] = field(default_factory=dict)
    vectors: dict[str, NormStatistics] = field(default_factory=dict)
    sample: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Survey:
    """Statistics of an artifact, table by table."""

    path: str
    manifest: Manifest
    tables: list[TableSurvey]

    @property
    def examples(self) -> dict[str, list[str]]:
        """First rows that were dropped, by reason."""
        return dict(self.manifest.notes.get("examples", {}))


def open_any(path: str) -> Artifact:
    """Open a finished artifact of any kind; raises UserError, naming artifacts below the path where there are any."""
    fs, root = filesystem(path)
    if fs.exists(root) and not fs.exists(join(root, MANIFEST)):
        below = sorted(name.rsplit("/", 2)[-2] for name in fs.glob(join(root, "*", MANIFEST)))
        if below:
            raise UserError(f"{path}: is no artifact but holds some; give {path.rstrip('/')}/{{{','.join(below)}}}")
        raise UserError(f"{path}: has no {MANIFEST}, so it is not a finished artifact")
    if not fs.exists(root):
        raise UserError(f"{path}: no such directory")
    manifest = read_json(join(path, MANIFEST))
    return Artifact.open(path, str(manifest.get("kind") if isinstance(manifest, dict) else ""))


def survey(path: str, rows: int = 3, seed: int = 0) -> Survey:
    """Measure every table of an artifact and pick `rows` random rows of each."""
    artifact = open_any(path)
    names = artifact.manifest.tables
    tables = [_table(artifact, name, np.random.default_rng([seed, i]), rows) for i, name in enumerate(names)]
    return Survey(path, artifact.manifest, tables)


def _table(artifact: Artifact, name: str, rng: np.random.Generator, rows: int) -> TableSurvey:
    info = artifact.manifest.tables[name]
    table = TableSurvey(name, info.rows, len(info.files), info.columns)
    sampled = np.sort(rng.choice(info.rows, min(rows, info.rows), replace=False)) if info.rows else np.zeros(0, int)
    first = 0
    for batch in _batches(artifact, name):
        _measure(table, batch)
        of_batch = sampled[(sampled >= first) & (sampled < first + batch.num_rows)] - first
        table.sample += batch.take(pa.array(of_batch, pa.int64())).to_pylist()
        first += batch.num_rows
    return table


def _batches(artifact: Artifact, name: str) -> Iterator[pa.RecordBatch]:
    for path in artifact.files(name):
        with open_parquet(path) as parquet:
            yield from parquet.iter_batches(_BATCH)


def _measure(table: TableSurvey, batch: pa.RecordBatch) -> None:
    splits = batch.column("split").to_pylist() if "split" in batch.schema.names else None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        column_type = column.type
        if name in COUNTED_COLUMNS:
            table.values.setdefault(name, Counter()).update(map(str, column.to_pylist()))
        elif pa.types.is_fixed_size_list(column_type):
            table.vectors.setdefault(name, NormStatistics()).add(column)
        elif pa.types.is_list(column_type):
            table.lengths.setdefault(name, LengthHistogram("items")).add(pc.list_value_length(column))
            _reasons(table, name, column)
        elif pa.types.is_string(column_type):
            if not name.endswith("id"):
                table.lengths.setdefault(name, LengthHistogram("characters")).add(pc.utf8_length(column))
            if not name.endswith("_id") or name == "group_id":
                table.repetition.setdefault(name, Repetition()).add(column.to_pylist(), splits)


def _reasons(table: TableSurvey, name: str, column: pa.Array) -> None:
    """Count why the negatives of triplets are there."""
    items = column.type.value_type
    if pa.types.is_struct(items) and "reason" in [item.name for item in items]:
        reasons = column.flatten().field("reason").to_pylist()
        table.values.setdefault(f"{name}.reason", Counter()).update(map(str, reasons))
