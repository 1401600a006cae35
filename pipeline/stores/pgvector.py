"""PostgreSQL with pgvector: a table of keys, vectors and a jsonb payload, a transaction a batch."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from pipeline.core.config import SECRET
from pipeline.core.errors import UserError
from pipeline.stores.points import as_json
from pipeline.stores.store import DIGEST, Point, Shape, Store, Target

_OPERATORS = {"cosine": "vector_cosine_ops", "dot": "vector_ip_ops"}
_COLUMNS = {"key", "id", DIGEST, "embedding", "payload"}


class PgVector(Store):
    """A table of PostgreSQL with the extension pgvector, asked by `ORDER BY embedding <=> $1` (dot: `<#>`)."""

    type: Literal["pgvector"] = "pgvector"
    dsn: str = Field("", description="as libpq takes it, without a password: that is in PGPASSWORD or ~/.pgpass")
    table: str = Field("documents", description="its name, with a schema where one is needed: shop.documents")
    hnsw: bool = Field(False, description="build an HNSW index when all points are there")

    @field_validator("dsn")
    @classmethod
    def _no_password(cls, dsn: str) -> str:
        if "password" in dsn or ("@" in dsn and ":" in dsn.partition("://")[2].partition("@")[0]):
            raise PydanticCustomError(SECRET, "holds a password, which settings would keep; give it as PGPASSWORD")
        return dsn

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"pgvector {self.table}"

    def check_installed(self) -> None:
        """Raise UserError that names the extra where psycopg or pgvector is missing."""
        try:
            import pgvector.psycopg  # noqa: F401
            import psycopg  # noqa: F401
        except ImportError as error:
            raise UserError(
                "publish: needs psycopg and pgvector; install them with `pip install 'tripletail[pgvector]'`"
            ) from error

    def open(self, shape: Shape) -> Target:
        """Connect, and make extension and table where they are not there."""
        import psycopg

        try:
            connection = psycopg.connect(self.dsn)
            try:
                return _Table(self, connection, shape)
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            raise self.error(error) from error

    def error(self, error: Exception) -> UserError:
        """An error of the database as a line; no value of a setting is in it."""
        return UserError(f"publish: {self.label}: {' '.join(str(error).split()) or type(error).__name__}")


class _Table(Target):
    """The table, over one connection."""

    def __init__(self, settings: PgVector, connection: Any, shape: Shape) -> None:
        from pgvector.psycopg import register_vector
        from psycopg import sql

        self.settings, self.connection, self.shape = settings, connection, shape
        self.name = sql.Identifier(*settings.table.split("."))
        self._do("CREATE EXTENSION IF NOT EXISTS vector")
        self._do(
            f"CREATE TABLE IF NOT EXISTS {{}} (key text PRIMARY KEY, id text NOT NULL, {DIGEST} text NOT NULL, "
            f"embedding vector({shape.dim}) NOT NULL, payload jsonb NOT NULL)"
        )
        self._require_shape()
        connection.commit()
        register_vector(connection)

    def _do(self, query: str, values: Any = None) -> Any:
        """Run a statement; `{}` in it is the table."""
        import psycopg
        from psycopg import sql

        try:
            return self.connection.execute(sql.SQL(query).format(self.name), values)
        except psycopg.Error as error:
            raise self.settings.error(error) from error

    def _require_shape(self) -> None:
        rows = self._do(
            "SELECT attname, atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
            [self.name.as_string(self.connection)],
        ).fetchall()
        widths = dict(rows)
        if missing := sorted(_COLUMNS - set(widths)):
            raise UserError(f"publish: {self.settings.label}: has no column {missing[0]}; choose another --store.table")
        if widths["embedding"] != self.shape.dim:
            raise UserError(
                f"publish: {self.settings.label}: holds vectors of {widths['embedding']} numbers, these have "
                f"{self.shape.dim}; choose another --store.table"
            )

    def digests(self, keys: Sequence[str]) -> dict[str, str]:
        """Digests of the rows of these keys."""
        return dict(self._do(f"SELECT key, {DIGEST} FROM {{}} WHERE key = ANY(%s)", [list(keys)]).fetchall())

    def upsert(self, points: Sequence[Point]) -> None:
        """Insert or replace rows in one transaction."""
        import psycopg
        from psycopg import sql

        query = sql.SQL(
            f"INSERT INTO {{}} (key, id, {DIGEST}, embedding, payload) VALUES (%s, %s, %s, %s, %s::jsonb) "
            f"ON CONFLICT (key) DO UPDATE SET id = EXCLUDED.id, {DIGEST} = EXCLUDED.{DIGEST}, "
            "embedding = EXCLUDED.embedding, payload = EXCLUDED.payload"
        ).format(self.name)
        rows = [(point.key, point.id, point.digest, point.vector, as_json(point.payload)) for point in points]
        try:
            with self.connection.cursor() as cursor:
                cursor.executemany(query, rows)
            self.connection.commit()
        except psycopg.Error as error:
            raise self.settings.error(error) from error

    def all_keys(self) -> Iterator[list[str]]:
        """Yield all keys by a cursor of the server."""
        from psycopg import sql

        with self.connection.cursor("published_keys") as cursor:
            cursor.execute(sql.SQL("SELECT key FROM {}").format(self.name))
            while rows := cursor.fetchmany(10_000):
                yield [row[0] for row in rows]

    def delete(self, keys: Sequence[str]) -> None:
        """Remove rows in one transaction."""
        self._do("DELETE FROM {} WHERE key = ANY(%s)", [list(keys)])
        self.connection.commit()

    def count(self) -> int:
        """Rows of the table."""
        return int(self._do("SELECT count(*) FROM {}").fetchone()[0])

    def finish(self) -> None:
        """Build the index where one is asked for and is not there."""
        from psycopg import sql

        if self.settings.hnsw:
            index = sql.Identifier(self.settings.table.rpartition(".")[2] + "_hnsw").as_string(self.connection)
            operators = _OPERATORS[self.shape.similarity]
            self._do(f"CREATE INDEX IF NOT EXISTS {index} ON {{}} USING hnsw (embedding {operators})")
        self.connection.commit()

    def close(self) -> None:
        """Close the connection; a transaction that is open is undone."""
        self.connection.close()
