"""S3 servers (moto) in this process, reached as users reach theirs: by environment variables alone."""

import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Store:
    """moto's S3 on loopback, with one bucket."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.store = DomainDispatcherApplication(create_backend_app)
        self.bucket = f"tripletail-{uuid.uuid4().hex[:8]}"
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request of WSGI."""
        answer: Iterable[bytes] = self.store(environ, start_response)
        return answer

    @contextmanager
    def serving(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Serve, have s3:// lead here, and make the bucket."""
        s3fs = pytest.importorskip("s3fs", reason="needs the extra 's3'")
        self.thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{self.server.port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(self.bucket)
        try:
            yield
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            self.server.shutdown()
            self.thread.join()


class CountingStore(Store):
    """A store that counts: `reads` and `sent` are the GET requests and the bytes of their answers."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.reads = self.sent = 0

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request of WSGI."""
        body = list(super().answer(environ, start_response))
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
    """A store that counts what is read of it."""
    pytest.importorskip("s3fs", reason="needs the extra 's3'")
    store = CountingStore()
    with store.serving(monkeypatch):
        yield store
