"""LanceDB: a table in a folder or on an object store, a version a batch."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.stores.store import DIGEST, KEY, Point, Shape, Store, Target


class LanceDb(Store):
    """A table of LanceDB: columns key, id, content_hash, vector, and the payload's as they are."""

    type: Literal["lancedb"] = "lancedb"
    uri: str = Field(description="folder of the database, here or on an object store")
    table: str = Field("documents", description="its name")

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"lancedb {self.table}"

    def check_installed(self) -> None:
        """Raise UserError that names the extra where LanceDB is missing."""
        try:
            import lancedb  # noqa: F401
        except ImportError as error:
            raise UserError("publish: needs LanceDB; install it with `pip install 'tripletail[lancedb]'`") from error

    def open(self, shape: Shape) -> Target:
        """Open the table, and make it where it is not there."""
        import lancedb

        columns = [pa.field(name, pa.string(), nullable=False) for name in (KEY, "id", DIGEST)]
        vector = pa.field("vector", pa.list_(pa.float32(), shape.dim))
        schema = pa.schema([*columns, vector, *shape.payload])
        try:
            database = lancedb.connect(self.uri)
            try:
                table = database.open_table(self.table)
            except (ValueError, FileNotFoundError):  # there is none
                table = database.create_table(self.table, schema=schema)
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(f"publish: {self.label}: {' '.join(str(error).split())[:300]}") from error
        different = [field.name for field in schema if field.name not in table.schema.names]
        different += [name for name in schema.names if name not in different and not _alike(schema, table.schema, name)]
        different += [name for name in table.schema.names if name not in schema.names]
        if different:
            raise UserError(
                f"publish: {self.label}: its column '{different[0]}' is another one than these vectors have; choose "
                "another --store.table"
            )
        return _Table(table, schema)


def _alike(schema: pa.Schema, there: pa.Schema, name: str) -> bool:
    return bool(schema.field(name).type.equals(there.field(name).type))


class _Table(Target):
    """The table; a batch is a version of it."""

    def __init__(self, table: Any, schema: pa.Schema) -> None:
        self.table, self.schema, self.changed = table, schema, False

    def digests(self, keys: Sequence[str]) -> dict[str, str]:
        """Digests of the rows of these keys."""
        query = self.table.search().where(_among(keys)).select([KEY, DIGEST]).limit(len(keys))
        rows = query.to_arrow()
        return dict(zip(rows[KEY].to_pylist(), rows[DIGEST].to_pylist(), strict=True))

    def upsert(self, points: Sequence[Point]) -> None:
        """Insert or replace rows in one version."""
        vectors = np.stack([point.vector for point in points]).astype(np.float32)
        columns = [
            pa.array([point.key for point in points]),
            pa.array([point.id for point in points]),
            pa.array([point.digest for point in points]),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        ]
        for field in list(self.schema)[len(columns) :]:
            columns.append(pa.array([point.payload[field.name] for point in points], field.type))
        merge = self.table.merge_insert(KEY).when_matched_update_all().when_not_matched_insert_all()
        merge.execute(pa.table(columns, schema=self.schema))
        self.changed = True

    def all_keys(self) -> Iterator[list[str]]:
        """Yield all keys, a batch at a time."""
        reader = self.table.search().select([KEY]).limit(self.count()).to_batches()
        for batch in reader:
            yield batch.column(0).to_pylist()

    def delete(self, keys: Sequence[str]) -> None:
        """Remove rows in one version."""
        self.table.delete(_among(keys))
        self.changed = True

    def count(self) -> int:
        """Rows of the table."""
        return int(self.table.count_rows())

    def finish(self) -> None:
        """Join the small files that batches left, and index the keys, by which the next run looks rows up."""
        if self.changed:
            self.table.create_scalar_index(KEY, replace=True)
            self.table.optimize()


def _among(keys: Sequence[str]) -> str:
    """A condition of SQL: the key is one of these."""
    quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in keys)
    return f"{KEY} IN ({quoted})"
