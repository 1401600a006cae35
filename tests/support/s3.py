"""An S3 server (moto) in this process that counts what is asked of it and what it sends."""

import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class CountingStore:
    """moto's S3 on loopback; `reads` and `sent` are the GET requests and the bytes of their answers."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.store, self.lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
        self.reads = self.sent = 0
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.bucket = f"tripletail-{uuid.uuid4().hex[:8]}"

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request of WSGI."""
        body = list(self.store(environ, start_response))
        if environ["REQUEST_METHOD"] == "GET":
            with self.lock:
                self.reads, self.sent = self.reads + 1, self.sent + sum(map(len, body))
        return body

    @contextmanager
    def counted(self) -> Iterator["CountingStore"]:
        """Count from nought."""
        self.reads = self.sent = 0
        yield self


@pytest.fixture
def counting_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingStore]:
    """A store with one bucket, which s3:// reaches."""
    s3fs = pytest.importorskip("s3fs", reason="needs the extra 's3'")
    store = CountingStore()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.server.port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(store.bucket)
    yield store
    s3fs.S3FileSystem.clear_instance_cache()
    store.server.shutdown()
    store.thread.join()
