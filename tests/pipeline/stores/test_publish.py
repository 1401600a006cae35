"""Stores made equal to vectors: inserts, updates, deletes and a kill, checked by count and by exact search."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.search.exact import top_k
from pipeline.storage.artifact import Artifact, Draft
from pipeline.storage.vectors import to_matrix, vectors_table
from pipeline.stores.job import PublishConfig, Published, run
from pipeline.stores.points import point_key
from tests.support.checkout import ROOT
from tests.support.postgres import postgres

DIM, ROWS = 16, 60
Nearest = Callable[[np.ndarray, int], list[str]]
Count = Callable[[], int]


class Pgvector:
    """The table in a server of its own."""

    def __init__(self, _: Path) -> None:
        pytest.importorskip("psycopg", reason="the extra [pgvector] is not installed")
        pytest.importorskip("pgvector", reason="the extra [pgvector] is not installed")
        self.server = postgres()
        self.address = self.server.__enter__()
        self.settings = {"type": "pgvector", "dsn": self.address, "table": "documents", "hnsw": True}

    def _ask(self, query: str, *values: Any) -> list[Any]:
        import psycopg

        with psycopg.connect(self.address) as connection:
            connection.execute("SET enable_indexscan = off")
            return connection.execute(query, values).fetchall()

    def count(self) -> int:
        return self._ask("SELECT count(*) FROM documents")[0][0]

    def nearest(self, query: np.ndarray, k: int) -> list[str]:
        order = "SELECT key FROM documents ORDER BY embedding <=> %s::vector, key LIMIT %s"
        return [row[0] for row in self._ask(order, str(query.tolist()), k)]

    def payload(self, key: str) -> Any:
        return self._ask("SELECT payload FROM documents WHERE key = %s", key)[0][0]

    def close(self) -> None:
        self.server.__exit__(None, None, None)


class Qdrant:
    """The collection in local mode."""

    def __init__(self, folder: Path) -> None:
        self.client = pytest.importorskip("qdrant_client", reason="the extra [qdrant] is not installed").QdrantClient
        self.path = str(folder / "qdrant")
        self.settings = {"type": "qdrant", "path": self.path}

    def _with(self, use: Callable[[Any], Any]) -> Any:
        client = self.client(path=self.path)
        try:
            return use(client)
        finally:
            client.close()

    def count(self) -> int:
        return self._with(lambda client: client.count("documents").count)

    def nearest(self, query: np.ndarray, k: int) -> list[str]:
        result = self._with(lambda client: client.query_points("documents", query.tolist(), limit=k))
        return [point.payload["key"] for point in result.points]

    def payload(self, key: str) -> Any:
        points = self._with(lambda client: client.scroll("documents", limit=ROWS * 2)[0])
        return next(point.payload for point in points if point.payload["key"] == key)

    def close(self) -> None: ...


class LanceDb:
    """The table, as LanceDB opens it."""

    def __init__(self, folder: Path) -> None:
        self.lancedb = pytest.importorskip("lancedb", reason="the extra [lancedb] is not installed")
        self.uri = str(folder / "lancedb")
        self.settings = {"type": "lancedb", "uri": self.uri}

    @property
    def table(self) -> Any:
        return self.lancedb.connect(self.uri).open_table("documents")

    def count(self) -> int:
        return self.table.count_rows()

    def nearest(self, query: np.ndarray, k: int) -> list[str]:
        return self.table.search(query).distance_type("cosine").limit(k).to_arrow()["key"].to_pylist()

    def payload(self, key: str) -> Any:
        return self.table.search().where(f"key = '{key}'").to_list()[0]

    def close(self) -> None: ...


class OpenSearch:
    """What an index holds after all files were posted in their order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "opensearch"
        self.settings = {"type": "opensearch", "path": str(self.folder)}

    def documents(self) -> dict[str, Any]:
        stored: dict[str, Any] = {}
        for file in sorted(self.folder.glob("[0-9]*/*.ndjson")):
            if ".partial" in str(file):
                continue
            lines = iter(file.read_text(encoding="utf-8").splitlines())
            for line in lines:
                ((action, where),) = json.loads(line).items()
                assert where["_index"] == "documents"
                if action == "delete":
                    del stored[where["_id"]]
                else:
                    stored[where["_id"]] = json.loads(next(lines))
        return stored

    def count(self) -> int:
        return len(self.documents())

    def nearest(self, query: np.ndarray, k: int) -> list[str]:
        stored = self.documents()
        matrix = np.array([document["vector"] for document in stored.values()], np.float32)
        return [list(stored)[row] for row in top_k(query[None], [matrix], k)[1][0]]

    def payload(self, key: str) -> Any:
        return self.documents()[key]

    def close(self) -> None: ...


STORES = [Pgvector, Qdrant, LanceDb, OpenSearch]


@pytest.fixture(params=STORES, ids=lambda kind: kind.__name__.lower())
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    opened = request.param(tmp_path)
    yield opened
    opened.close()


def artifact(folder: Path, rows: range, changed: set[int] = frozenset(), retitled: set[int] = frozenset()) -> Artifact:
    """Vectors of documents by number; those of `changed` have another vector, those of `retitled` another title."""
    rng = np.random.default_rng(7)
    first, second = (rng.normal(size=(200, DIM)).astype(np.float32) for _ in range(2))
    vectors = np.stack([(second if row in changed else first)[row] for row in rows])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = pa.chunked_array([[f"it's {row}" for row in rows]])
    titles = [f"new {row}" if row in retitled else f"title {row}" if row % 7 else None for row in rows]
    table = vectors_table(ids, vectors, "float32").append_column("title", pa.array(titles, pa.string()))
    draft = Draft(str(folder), "embed", {}, {})
    draft.write("vectors", table.append_column("tags", pa.array([["a", str(row)] for row in rows])), 0)
    return draft.finish(["vectors"], encoder={"similarity": "cosine"})


def publish(store: Any, vectors: Artifact, **settings: Any) -> Published:
    return run(validate(PublishConfig, {"vectors": vectors.path, "store": store.settings, "batch": 16, **settings}))


def assert_equal(store: Any, vectors: Artifact) -> None:
    """The store holds as many points, and finds the same ten for each of some queries as exact search does."""
    table = vectors.read("vectors")
    matrix, ids = to_matrix(table["vector"]), table["id"].to_pylist()
    assert store.count() == len(ids)
    queries = np.random.default_rng(1).normal(size=(8, DIM)).astype(np.float32)
    for query, rows in zip(queries, top_k(queries, [matrix], 10)[1], strict=True):
        assert store.nearest(query, 10) == [ids[row] for row in rows]


def test_a_store_follows_inserts_updates_and_deletes_and_only_those(store, tmp_path):
    first = artifact(tmp_path / "1", range(ROWS))
    assert publish(store, first) == Published(ROWS, 0, 0, 0)
    assert_equal(store, first)
    assert publish(store, first) == Published(0, 0, ROWS, 0)
    second = artifact(tmp_path / "2", range(10, 80), changed={11, 40}, retitled={12})
    assert publish(store, second) == Published(20, 3, 47, 10)
    assert_equal(store, second)
    stored = store.payload("it's 12") if not isinstance(store, LanceDb) else store.payload("it''s 12")
    assert (stored["title"], list(stored["tags"])) == ("new 12", ["a", "12"])


KILLED = """
import json, os, signal, sys
from pipeline.core.config import validate
from pipeline.stores.job import PublishConfig, run
config, left = validate(PublishConfig, json.loads(sys.argv[1])), [int(sys.argv[2])]

def counted(method):
    def call(self, *args):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *args)
    return call

kind = type(config.store)
opened = kind.open

def watched(self, shape):
    target = opened(self, shape)
    for name in ("upsert", "delete", "finish"):
        setattr(type(target), name, counted(getattr(type(target), name)))
    return target

kind.open = watched
run(config)
"""


def kill_before_write(store: Any, vectors: Artifact, number: int) -> None:
    """Publish in a process that is killed before its n-th write."""
    settings = {"vectors": vectors.path, "store": store.settings, "batch": 16}
    words = [sys.executable, "-c", KILLED, json.dumps(settings), str(number)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-1000:]


def test_a_killed_run_is_gone_on_with(store, tmp_path):
    before, after = artifact(tmp_path / "1", range(ROWS)), artifact(tmp_path / "2", range(5, 70), changed={*range(20)})
    publish(store, before)
    kill_before_write(store, after, 2)
    stored = store.count()
    result = publish(store, after)
    assert_equal(store, after)
    if isinstance(store, OpenSearch):  # whose increment appears whole or not at all
        assert stored == ROWS and result == Published(10, 15, 40, 5)
    else:
        assert result == Published(10, 0, 55, 5), "what the killed run had sent is sent again, or not at all"
    assert publish(store, after) == Published(0, 0, 65, 0)


def test_what_would_empty_a_store_or_does_not_fit_is_refused(store, tmp_path):
    publish(store, artifact(tmp_path / "1", range(ROWS)))
    few = artifact(tmp_path / "2", range(20))
    with pytest.raises(UserError, match="40 of 60 points are not in the artifact"):
        publish(store, few)
    assert store.count() == ROWS
    assert publish(store, few, max_deleted=1).deleted == 40
    draft = Draft(str(tmp_path / "3"), "embed", {}, {})
    draft.write("vectors", vectors_table(pa.chunked_array([["a"]]), np.ones((1, 4), np.float32), "float32"), 0)
    with pytest.raises(UserError, match=r"choose another (--store|folder)"):
        publish(store, draft.finish(["vectors"]))
    with pytest.raises(UserError, match="has no column 'title'"):
        publish(store, Artifact.open(str(tmp_path / "3")), columns=["title"])


def test_a_password_is_no_setting(tmp_path):
    for dsn in ("postgresql://me:secret@host/db", "host=h password=secret"):
        with pytest.raises(UserError, match="PGPASSWORD") as refused:
            validate(PublishConfig, {"store": {"type": "pgvector", "dsn": dsn}})
        assert "secret" not in str(refused.value)
    with pytest.raises(UserError, match=r"store\.url or store\.path"):
        validate(PublishConfig, {"store": {"type": "qdrant"}})
    with pytest.raises(UserError, match="choose from lancedb, opensearch, pgvector, qdrant"):
        validate(PublishConfig, {"store": {"type": "milvus"}})


def test_a_passage_is_a_point_of_its_own():
    assert [point_key("a", 0), point_key("a", 120), point_key("a", None)] == ["a#0", "a#120", "a"]
