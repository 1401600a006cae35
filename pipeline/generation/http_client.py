"""JSON over HTTP: answers of a bounded size, failures that pass tried again, and no key in any message."""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from pipeline.text.normalize import normalise

MAX_BODY = 4 << 20  # bytes of an answer that are read
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses after which the same may succeed
_PIECE = 1 << 16


class HttpFailure(Exception):
    """A request that failed for good: `status` is the server's, 0 where none answered; `retries` were made before."""

    def __init__(self, message: str, status: int, retries: int) -> None:
        super().__init__(message)
        self.status, self.retries = status, retries


@dataclass(frozen=True)
class Retries:
    """How often a request is tried again, and after how many seconds: doubled each time, up to the longest."""

    count: int
    first_wait: float
    longest_wait: float

    def wait(self, attempt: int, asked_wait: float | None, seed: int) -> float:
        """Seconds before the next attempt: what the server asks for, else backoff with a jitter of one half."""
        jitter = 0.5 + random.Random(seed + attempt).random() / 2
        backoff = min(self.longest_wait, self.first_wait * 2.0**attempt) * jitter
        return backoff if asked_wait is None else min(self.longest_wait, max(asked_wait, backoff))


@dataclass(frozen=True)
class JsonAnswer:
    """A body that was JSON, and the retries that it took."""

    value: Any
    retries: int


class JsonClient:
    """Posts JSON to one address from several threads, each with a connection of its own that it keeps."""

    def __init__(self, url: str, key: str | None, timeout: float, retries: Retries) -> None:
        self.url, self.timeout, self.retries = url, timeout, retries
        self._key, self._local = key, threading.local()
        self.stopped = threading.Event()  # when set, no request is tried again and none waits
        self.sleep: Callable[[float], object] = self.stopped.wait

    def __getstate__(self) -> dict[str, Any]:
        """A client is not sent anywhere: it holds a key."""
        raise TypeError("a client holds a key and stays in its process")

    def post(self, body: dict[str, Any], seed: int) -> JsonAnswer:
        """Post a body; raises HttpFailure when the retries are used up, or at once where none would help."""
        attempt = 0
        while True:
            message, status, asked_wait = self._try(body)
            if isinstance(message, JsonAnswer):
                return JsonAnswer(message.value, attempt)
            if attempt >= self.retries.count or (status and status not in PASSING) or self.stopped.is_set():
                raise HttpFailure(self._plain(message), status, attempt)
            self.sleep(self.retries.wait(attempt, asked_wait, seed))
            attempt += 1

    def _try(self, body: dict[str, Any]) -> tuple[JsonAnswer | str, int, float | None]:
        """One attempt: the answer, or a message with the status (0: none) and the seconds that the server asks for."""
        try:
            with self._session().post(
                self.url, json=body, timeout=self.timeout, stream=True, allow_redirects=False, auth=self._authorise
            ) as response:
                content = self._read(response)
                status, asked_wait = response.status_code, retry_after(response.headers.get("Retry-After"))
        except (requests.RequestException, OSError) as error:
            return f"{type(error).__name__}: {error}", 0, None
        if content is None:
            return f"status {status}: more than {MAX_BODY:,} bytes, or slower than the timeout", 0, None
        if status != requests.codes.ok:
            return f"status {status}: {content[:2000].decode('utf-8', 'replace')}", status, asked_wait
        try:
            return JsonAnswer(json.loads(content), 0), status, None
        except (ValueError, RecursionError):
            return "status 200, but the body is not JSON", 0, None

    def _read(self, response: requests.Response) -> bytes | None:
        """The body; None where it is too long, or comes so slowly that the timeout passes."""
        content, end = bytearray(), time.monotonic() + self.timeout
        for piece in response.iter_content(_PIECE):
            content += piece
            if len(content) > MAX_BODY or time.monotonic() > end:
                return None
        return bytes(content)

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            for scheme in ("http://", "https://"):
                self._local.session.mount(scheme, HTTPAdapter(max_retries=0))
        session: requests.Session = self._local.session
        return session

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the key into a request; without one nothing, so that no `.netrc` is asked."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _plain(self, message: str) -> str:
        """A message on one line, without the key that a server may repeat."""
        text = message.replace(self._key, "***") if self._key else message
        return normalise(text)[:300]


def retry_after(value: str | None) -> float | None:
    """Seconds that a header Retry-After asks for, as a number or a date; None where it says nothing."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
