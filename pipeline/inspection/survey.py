"""What an artifact holds, measured in one pass over each table, with memory that does not follow the rows."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.inspection.repetition import Repeats
from pipeline.storage.artifact import MANIFEST, Artifact, Manifest
from pipeline.storage.files import filesystem, join, open_parquet, read_json

LONGEST = 100_000  # lengths are told apart up to here
NAMES = frozenset({"split", "source", "reason", "relevance"})  # columns whose values are counted
_BATCH = 8192
Numbers = npt.NDArray[np.int64]


@dataclass
class Lengths:
    """How often each length occurs: characters of a text, or items of a list."""

    unit: str
    counts: Numbers = field(default_factory=lambda: np.zeros(LONGEST + 1, np.int64))

    def add(self, lengths: pa.Array) -> None:
        """Take the lengths of a batch; nulls count as 0."""
        found = np.minimum(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64), LONGEST)
        self.counts += np.bincount(found, minlength=LONGEST + 1)

    def quantile(self, share: float) -> int:
        """Smallest length that at least this share of the rows does not exceed."""
        return int(np.searchsorted(np.cumsum(self.counts), share * self.counts.sum()))


@dataclass
class Vectors:
    """Norms of a column of vectors."""

    rows: int = 0
    unusable: int = 0  # zero or not finite
    least: float = np.inf
    most: float = -np.inf
    total: float = 0.0

    def add(self, column: pa.Array) -> None:
        """Take the vectors of a batch."""
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        norms = np.linalg.norm(flat.reshape(len(column), -1), axis=1)
        good = norms[np.isfinite(norms) & (norms > 0)]
        self.rows += len(norms)
        self.unusable += len(norms) - len(good)
        self.total += float(good.sum())
        self.least = min(self.least, float(good.min(initial=np.inf)))
        self.most = max(self.most, float(good.max(initial=-np.inf)))


@dataclass
class TableSurvey:
    """What one table holds."""

    name: str
    rows: int
    files: int
    columns: dict[str, str]
    lengths: dict[str, Lengths] = field(default_factory=dict)
    repeats: dict[str, Repeats] = field(default_factory=dict)
    values: dict[str, Counter[str]] = field(default_factory=dict)
    vectors: dict[str, Vectors] = field(default_factory=dict)
    sample: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Survey:
    """What an artifact holds."""

    path: str
    manifest: Manifest
    tables: list[TableSurvey]

    @property
    def examples(self) -> dict[str, list[str]]:
        """First offenders of each reason for which rows were dropped."""
        return dict(self.manifest.notes.get("examples", {}))


def open_any(path: str) -> Artifact:
    """Open a finished artifact of any kind; raises UserError naming what lies below where there is none."""
    fs, root = filesystem(path)
    if fs.exists(root) and not fs.exists(join(root, MANIFEST)):
        below = sorted(name.rsplit("/", 2)[-2] for name in fs.glob(join(root, "*", MANIFEST)))
        if below:
            raise UserError(f"{path}: is no artifact but holds some; give {path.rstrip('/')}/{{{','.join(below)}}}")
        raise UserError(f"{path}: has no {MANIFEST}, so it is not a finished artifact")
    if not fs.exists(root):
        raise UserError(f"{path}: no such directory")
    raw = read_json(join(path, MANIFEST))
    return Artifact.open(path, str(raw.get("kind") if isinstance(raw, dict) else ""))


def survey(path: str, rows: int = 3, seed: int = 0) -> Survey:
    """Measure every table of an artifact and draw `rows` random rows of each."""
    artifact = open_any(path)
    names = artifact.manifest.tables
    tables = [_table(artifact, name, np.random.default_rng([seed, i]), rows) for i, name in enumerate(names)]
    return Survey(path, artifact.manifest, tables)


def _table(artifact: Artifact, name: str, rng: np.random.Generator, wanted: int) -> TableSurvey:
    info = artifact.manifest.tables[name]
    found = TableSurvey(name, info.rows, len(info.files), info.columns)
    drawn = np.sort(rng.choice(info.rows, min(wanted, info.rows), replace=False)) if info.rows else np.zeros(0, int)
    first = 0
    for batch in _batches(artifact, name):
        _measure(found, batch)
        here = drawn[(drawn >= first) & (drawn < first + batch.num_rows)] - first
        found.sample += batch.take(pa.array(here, pa.int64())).to_pylist()
        first += batch.num_rows
    return found


def _batches(artifact: Artifact, name: str) -> Iterator[pa.RecordBatch]:
    for path in artifact.files(name):
        with open_parquet(path) as parquet:
            yield from parquet.iter_batches(_BATCH)


def _measure(found: TableSurvey, batch: pa.RecordBatch) -> None:
    splits = batch.column("split").to_pylist() if "split" in batch.schema.names else None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = column.type
        if name in NAMES:
            found.values.setdefault(name, Counter()).update(map(str, column.to_pylist()))
        elif pa.types.is_fixed_size_list(kind):
            found.vectors.setdefault(name, Vectors()).add(column)
        elif pa.types.is_list(kind):
            found.lengths.setdefault(name, Lengths("items")).add(pc.list_value_length(column))
            _reasons(found, name, column)
        elif pa.types.is_string(kind):
            if not name.endswith("id"):
                found.lengths.setdefault(name, Lengths("characters")).add(pc.utf8_length(column))
            if not name.endswith("_id") or name == "group_id":
                found.repeats.setdefault(name, Repeats()).add(column.to_pylist(), splits)


def _reasons(found: TableSurvey, name: str, column: pa.Array) -> None:
    """Count why the negatives of triplets are there."""
    items = column.type.value_type
    if pa.types.is_struct(items) and "reason" in [item.name for item in items]:
        reasons = column.flatten().field("reason").to_pylist()
        found.values.setdefault(f"{name}.reason", Counter()).update(map(str, reasons))
