"""Requests that are refused: the status, the reason in OpenAI's form, and when to come again."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Refusal(Exception):
    """Why a request is not answered; clients get it as `{"error": {"message": ..., "type": ..., "code": ...}}`."""

    status: int
    message: str
    code: str
    retry_after_s: int | None = None
    allow: str | None = None

    def body(self) -> dict[str, Any]:
        """The answer, as OpenAI's interface writes errors."""
        kind = (
            "invalid_request_error" if self.status < 429 else "rate_limit_error" if self.status == 429 else "overload"
        )
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        values = {"Retry-After": self.retry_after_s, "Allow": self.allow}
        extra = {name: str(value) for name, value in values.items() if value is not None}
        return extra | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


class RateLimit:
    """At most `rate` requests a second, a second's worth of them at once (a bucket of tokens)."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.clock = rate, clock
        self.limit = max(1.0, rate or 0.0)
        self.left, self.filled = self.limit, clock()

    def take(self) -> None:
        """Count a request; raises Refusal with the whole seconds to wait where there are too many."""
        if self.rate is None:
            return
        now = self.clock()
        self.left = min(self.limit, self.left + (now - self.filled) * self.rate)
        self.filled = now
        if self.left < 1:
            wait = math.ceil((1 - self.left) / self.rate)
            raise Refusal(429, f"more than {self.rate:g} requests a second", "rate_limit_exceeded", wait)
        self.left -= 1


class Gate:
    """At most `limit` requests inside at once."""

    def __init__(self, limit: int) -> None:
        self.limit, self.inside = limit, 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be inside for a while; raises Refusal where the gate is full."""
        if self.inside >= self.limit:
            raise Refusal(503, f"{self.limit} requests are waiting already", "overloaded", 1)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
