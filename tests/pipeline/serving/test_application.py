"""The routes, without Ray: answers equal to the encoder's and the searcher's, and a clear error for all else."""

import asyncio
import base64
import hashlib
import json
from typing import Any

import numpy as np
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.search.query import Searcher
from pipeline.serving.application import Application
from pipeline.serving.config import ServeConfig
from pipeline.serving.job import free_port, token_digest
from pipeline.serving.refusal import Gate, RateLimit, Refusal
from pipeline.serving.served_model import ServedModel, TextsOfRole

starlette = pytest.importorskip("starlette.requests", reason="the extra [serve] is not installed")


class Client:
    """Sends requests to an application in this process."""

    def __init__(self, config: ServeConfig, **options: Any) -> None:
        self.model = ServedModel(config, "cpu")
        self.application = Application(self.model, config.limits, self._encode, self._search, **options)

    async def _encode(self, demand: TextsOfRole) -> Any:
        return self.model.encode([demand])[0]

    async def _search(self, *args: Any) -> Any:
        return self.model.search(*args)

    def __call__(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, Any, Any]:
        """Status, content and headers of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        half = len(data) // 2
        parts = [{"type": "http.request", "body": data[:half], "more_body": True}]
        parts += [{"type": "http.request", "body": data[half:], "more_body": False}]

        async def receive() -> Any:
            return parts.pop(0)

        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "server": ("127.0.0.1", 1)}
        scope["headers"] = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        answer = asyncio.run(self.application(starlette.Request(scope, receive)))
        return answer.status_code, json.loads(answer.body), answer.headers


LIMITS = {"texts": 4, "characters": 1000, "top_k": 20}


@pytest.fixture(scope="module")
def client(served_run) -> Client:
    return Client(validate(ServeConfig, {"run": str(served_run), "limits": LIMITS}))


def vectors_of(answer: dict[str, Any]) -> np.ndarray:
    return np.array([row["embedding"] for row in answer["data"]], np.float32)


def test_vectors_are_those_of_the_role_in_both_encodings(client):
    texts = ["wireless headphones", "a longer text about kettles and lamps", "x"]
    for role in ("document", "query"):
        expected = client.model.encoder.encode(texts, role)
        status, plain, _ = client("/v1/embeddings", {"input": texts, "input_type": role, "model": client.model.name})
        _, packed, _ = client("/v1/embeddings/", {"input": texts, "input_type": role, "encoding_format": "base64"})
        decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed["data"]]
        assert status == 200 and np.abs(vectors_of(plain) - expected).max() < 1e-5
        assert np.array_equal(np.array(decoded), vectors_of(plain))
    queries, documents = (client.model.encoder.encode(texts, role) for role in ("query", "document"))
    assert np.abs(queries - documents).max() > 0.01, "the prompt of queries changes nothing: the test sees no roles"
    assert plain["usage"]["prompt_tokens"] == sum(map(len, client.model.encoder.tokenize(texts, "query")))


def test_fewer_dimensions_have_length_one_again(client):
    _, answer, _ = client("/v1/embeddings", {"input": "kettle", "dimensions": 16})
    whole = client.model.encoder.encode(["kettle"], "document")[0, :16]
    assert np.allclose(vectors_of(answer)[0], whole / np.linalg.norm(whole), atol=1e-6)


def test_requests_that_are_batched_get_their_own_vectors(client):
    texts = [f"text number {number} " * (1 + number % 5) for number in range(12)]
    demand = [TextsOfRole(texts[:1], "query"), TextsOfRole(texts[1:7], "document"), TextsOfRole(texts[7:], "query")]
    for request, vectors in zip(demand, client.model.encode(demand), strict=True):
        assert np.abs(vectors - client.model.encoder.encode(request.texts, request.role)).max() < 1e-5


@pytest.mark.parametrize("system", ["dense", "mix", "rrf", "bm25"])
def test_a_search_finds_what_the_searcher_finds(client, served_run, system):
    status, answer, _ = client("/search", {"query": "red kettle", "top_k": 5, "system": system})
    hits = Searcher(str(served_run / "index"), system=system)("red kettle", 5)
    assert status == 200 and [hit["id"] for hit in answer["hits"]] == [hit.doc_id for hit in hits]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert answer["hits"][0]["columns"]["title"] == hits[0].columns["title"]


WRONG = [
    (b"{", 400, "is not JSON"),
    (b"[" * 60_000, 400, "is not JSON"),
    (b"[]", 400, "not a JSON object"),
    ({}, 400, "'input' is required"),
    ({"input": []}, 400, "'input'"),
    ({"input": 7}, 400, "a text or a list of texts"),
    ({"input": [[1, 2]]}, 400, "token ids"),
    ({"input": ["x", " \n"]}, 400, "text 1 is blank"),
    (b'{"input": ["x", "\\ud800"]}', 400, "text 1 is not Unicode"),
    ({"input": ["x"] * 5}, 400, "5 texts are more than the 4"),
    ({"input": "x" * 1001}, 413, "1001 characters are more than"),
    ({"input": "x" * 80_000}, 413, "longer than 71536 bytes"),
    ({"input": "x", "model": "gpt"}, 404, "no model 'gpt'"),
    ({"input": "x", "dimensions": 385}, 400, "more than the model's 384"),
    ({"input": "x", "input_type": "passage"}, 400, "'input_type' is 'passage'"),
    ({"input": "x", "dimension": 4}, 400, "did you mean 'dimensions'?"),
]


@pytest.mark.parametrize(("body", "status", "message"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_what_is_wrong_is_refused_in_one_clear_line(client, body, status, message):
    got, answer, _ = client("/v1/embeddings", body)
    assert got == status and message in answer["error"]["message"] and answer["error"]["code"]


def test_what_a_search_cannot_do_and_other_routes_are_refused(client):
    for body in (
        {"query": "x", "system": "bm52"},
        {"query": "x", "top_k": 21},
        {"query": ""},
        {"query": "x", "top_k": 0},
    ):
        assert client("/search", body)[0] == 400, body
    assert client("/v2/embeddings", {})[0] == 404
    status, _, headers = client("/search", method="GET")
    assert status == 405 and headers["allow"] == "POST"


def test_a_token_is_asked_for_everywhere_but_at_the_health_route(client, served_run):
    digest = hashlib.sha256(b"secret").digest()
    locked = Client(validate(ServeConfig, {"run": str(served_run)}), token=digest)
    wrong = ({}, {"authorization": "Bearer secre"}, {"authorization": "Basic secret"})
    assert [locked("/search", {"query": "x"}, **headers)[0] for headers in wrong] == [401] * 3
    assert locked("/search", {"query": "x"}, authorization="Bearer secret")[0] == 200
    status, health, _ = locked("/health", method="GET")
    assert status == 200 and health["vectors"] == 60 and health["systems"] == ["dense", "mix", "rrf", "bm25"]


def test_rates_and_crowds_are_refused_with_the_time_to_come_again(served_run):
    now = [0.0]
    rate = RateLimit(0.5, lambda: now[0])
    rate.take()
    with pytest.raises(Refusal) as refused:
        rate.take()
    assert (refused.value.status, refused.value.headers()["Retry-After"]) == (429, "2")
    now[0] = 2.0
    rate.take()
    gate = Gate(1)
    with gate.enter(), pytest.raises(Refusal) as refused, gate.enter():
        pass
    assert (refused.value.status, refused.value.headers()["Retry-After"]) == (503, "1")
    with gate.enter():
        pass
    busy = Client(validate(ServeConfig, {"run": str(served_run)}), rate=1.0)
    answers = [busy("/v1/embeddings", {"input": "x"}) for _ in range(3)]
    assert answers[0][0] == 200 and answers[-1][0] == 429
    assert answers[-1][2]["retry-after"] == "1"


def test_it_listens_on_loopback_and_holds_no_token(monkeypatch):
    config = validate(ServeConfig, {})
    assert config.host == "127.0.0.1" and config.is_loopback
    assert not validate(ServeConfig, {"host": "0.0.0.0"}).is_loopback
    assert not validate(ServeConfig, {"host": "somewhere.example"}).is_loopback
    assert token_digest(config) is None
    monkeypatch.setenv("TRIPLETAIL_TOKEN", "secret")
    assert token_digest(config) == hashlib.sha256(b"secret").digest() and "secret" not in str(config.model_dump())
    with pytest.raises(UserError, match=r"cannot listen on 203\.0\.113\.1:"):
        free_port("203.0.113.1", 0)
