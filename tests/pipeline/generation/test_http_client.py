"""Requests over real connections: what passes is tried again, what does not is not, and nothing is unbounded."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.generation.http_client import HttpFailure, JsonClient, Retries, retry_after
from pipeline.generation.language_model import Request
from pipeline.generation.openai_server import OpenAIServer

Reply = tuple[int, dict[str, str], bytes]


class Served:
    """What a server answers, one after the other, the last one for ever; and the headers and bodies that it got."""

    def __init__(self) -> None:
        self.replies: list[Reply | Callable[[Any], None]] = []
        self.got: list[tuple[dict[str, str], Any]] = []
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.url = ""


@pytest.fixture
def served() -> Iterator[Served]:
    state = Served()

    class Handler(BaseHTTPRequestHandler):
        wbufsize = -1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.got.append((dict(self.headers), body))
                state.running += 1
                state.most = max(state.most, state.running)
                reply = state.replies.pop(0) if len(state.replies) > 1 else state.replies[0]
            if callable(reply):
                reply(self)
            else:
                time.sleep(0.01)
                self.send_response(reply[0])
                for name, value in {"Content-Length": str(len(reply[2])), **reply[1]}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply[2])
            with state.lock:
                state.running -= 1

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()


def client(
    served: Served, retries: int = 3, timeout: float = 5, key: str | None = None
) -> tuple[JsonClient, list[float]]:
    """A client that writes its waits down in place of waiting."""
    waits: list[float] = []
    made = JsonClient(f"{served.url}/v1", key, timeout, Retries(retries, 1.0, 8.0))
    made.sleep = waits.append
    return made, waits


def test_failures_that_pass_are_tried_again_with_growing_waits(served: Served):
    served.replies = [(503, {}, b""), (500, {}, b"x"), (200, {}, b"no json"), (200, {}, b'{"a": 1}')]
    http, waits = client(served)
    answer = http.post({"b": 2}, seed=7)
    assert (answer.value, answer.retries) == ({"a": 1}, 3) and served.got[3][1] == {"b": 2}
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2 <= waits[2] <= 4
    again, same = client(served)
    served.replies = [(503, {}, b""), (200, {}, b"{}")]
    again.post({}, seed=7)
    assert same == waits[:1], "the jitter follows from the seed"


@pytest.mark.parametrize(("header", "least", "most"), [("3", 3, 3), ("1000", 8, 8), ("soon", 0.5, 1), ("-5", 0.5, 1)])
def test_a_server_that_asks_for_time_gets_it_within_bounds(served: Served, header: str, least: float, most: float):
    served.replies = [(429, {"Retry-After": header}, b""), (200, {}, b"{}")]
    http, waits = client(served)
    http.post({}, seed=0)
    assert len(waits) == 1 and least <= waits[0] <= most


def test_a_date_is_a_wait_too():
    assert 50 < (retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=60))) or 0) <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0 and retry_after("") is retry_after("Wed, 99") is None
    assert retry_after(None) is None


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 501])
def test_failures_that_do_not_pass_end_at_once(served: Served, status: int):
    served.replies = [(status, {}, b'{"error": "bad \x1b[31m key sk-1 \n' + b"x" * 5000)]
    http, waits = client(served, key="sk-1")
    with pytest.raises(HttpFailure) as failure:
        http.post({}, seed=0)
    message = str(failure.value)
    assert failure.value.status == status and not waits and len(served.got) == 1
    assert "sk-1" not in message and "***" in message and "\n" not in message and len(message) <= 300


def test_no_redirect_is_followed_with_a_key(served: Served):
    served.replies = [(307, {"Location": f"{served.url}/other"}, b"")]
    http, _ = client(served, key="sk-1")
    with pytest.raises(HttpFailure, match="status 307"):
        http.post({}, seed=0)
    assert len(served.got) == 1


def test_an_endless_and_a_slow_answer_are_bounded(served: Served):
    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b"x" * (1 << 20))
        except OSError:
            pass

    def slow(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(40):
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass

    for reply in (endless, slow):
        served.replies = [reply]
        http, _ = client(served, retries=0, timeout=1)
        start = time.monotonic()
        with pytest.raises(HttpFailure):
            http.post({}, seed=0)
        assert time.monotonic() - start < 30


def test_a_client_with_a_key_is_sent_nowhere(served: Served):
    import pickle

    with pytest.raises(TypeError, match="holds a key"):
        pickle.dumps(client(served, key="sk-1")[0])


def model(served: Served, **more: Any) -> Any:
    settings = {"type": "openai", "base_url": f"{served.url}/v1/", "model": "m", "first_wait": 0.01, **more}
    return validate(OpenAIServer, settings).start(1)


def completion(message: Any, finish: str = "stop", **more: Any) -> Reply:
    body = {"choices": [{"message": message, "finish_reason": finish}], **more}
    return 200, {}, json.dumps(body).encode()


def test_requests_run_at_a_time_up_to_the_bound(served: Served):
    served.replies = [completion({"content": "hello"})]
    replies = model(served, concurrency=3).answer([Request(f"p{n}", n) for n in range(30)])
    assert [reply.text for reply in replies] == ["hello"] * 30 and 1 < served.most <= 3
    assert sorted(body["messages"][0]["content"] for _, body in served.got) == sorted(f"p{n}" for n in range(30))
    assert {body["seed"] for _, body in served.got} == set(range(30))


def test_fields_of_a_request_can_be_added_and_removed(served: Served):
    served.replies = [completion({"content": "x"})]
    extra = {"max_tokens": None, "max_completion_tokens": 9, "response_format": {"type": "json_object"}}
    model(served, extra_body=extra, temperature=0).answer([Request("p", 5)])
    (_, body), *_ = served.got
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "p"}], "temperature": 0, "top_p": 0.95, "seed": 5,
        "max_completion_tokens": 9, "response_format": {"type": "json_object"},
    }  # fmt: skip
    assert "Authorization" not in served.got[0][0]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (completion({"content": None}), ""),
        (completion({"content": "", "refusal": "I will not"}), "refusal"),
        (completion({"content": "x"}, "content_filter"), "refusal"),
        (completion({"content": "x"}, "length"), "cut_off"),
        (completion({"content": ["x"]}), "no_completion"),
        (completion("x"), "no_completion"),
        ((200, {}, b"[]"), "no_completion"),
        ((200, {}, b'{"choices": []}'), "no_completion"),
        ((200, {}, b"[" * 100_000), "http_error"),
        ((400, {}, b"too long"), "http_error"),
    ],
)
def test_every_body_is_a_reply(served: Served, reply: Reply, error: str):
    served.replies = [reply]
    (got,) = model(served, retries=1).answer([Request("p", 0)])
    assert got.error == error and got.text == ""


@pytest.mark.parametrize(
    ("usage", "notes"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, {"prompt_tokens": 3, "answer_tokens": 4}),
        ({"prompt_tokens": -3, "completion_tokens": 4}, {"answers_without_usage": 1}),
        ({"prompt_tokens": 10**30, "completion_tokens": 4}, {"answers_without_usage": 1}),
        ({"prompt_tokens": "3"}, {"answers_without_usage": 1}),
        ("much", {"answers_without_usage": 1}),
    ],
)
def test_tokens_are_believed_within_reason(served: Served, usage: Any, notes: dict[str, int]):
    served.replies = [completion({"content": "x"}, usage=usage)]
    (got,) = model(served).answer([Request("p", 0)])
    assert got.notes == {"retries": 0, **notes}


def test_an_error_ends_the_waits_of_other_requests(served: Served):
    served.replies = [(429, {"Retry-After": "600"}, b""), (429, {"Retry-After": "600"}, b""), (401, {}, b"no")]
    start = time.monotonic()
    with pytest.raises(UserError, match="status 401"):
        model(served, concurrency=3, longest_wait=600).answer([Request(f"p{n}", n) for n in range(3)])
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_setting_ends_the_job(served: Served, status: int):
    served.replies = [(status, {}, b"no such model")]
    with pytest.raises(UserError, match=rf"status {status}: no such model; look at base_url, model and api_key_env"):
        model(served, concurrency=2).answer([Request(f"p{n}", n) for n in range(50)])
    assert len(served.got) < 50, "the others are not asked"
