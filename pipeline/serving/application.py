"""The routes: a request into an answer, or into one clear error. Nothing here knows Ray."""

import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pipeline.search.query import Hit
from pipeline.serving.config import LimitsConfig
from pipeline.serving.refusal import Gate, RateLimit, Refusal
from pipeline.serving.requests import EmbeddingRequest, SearchRequest, check_texts, parse
from pipeline.serving.served_model import Floats, ServedModel, TextsOfRole

Encode = Callable[[TextsOfRole], Awaitable[Floats]]
Search = Callable[[str, str, Floats, int], Awaitable[list[Hit]]]
Handler = Callable[[Request], Awaitable[Any]]


class Application:
    """Answers requests with the vectors of `encode` and the documents of `search`.

    `token` is the SHA-256 of the token that requests must bear, None where none is asked for. `rate` is the number of
    requests a second that are answered here, None for any.
    """

    def __init__(
        self,
        model: ServedModel,
        limits: LimitsConfig,
        encode: Encode,
        search: Search,
        token: bytes | None = None,
        rate: float | None = None,
    ) -> None:
        self.model, self.limits, self.token = model, limits, token
        self.encode, self.search = encode, search
        self.gate, self.rate = Gate(limits.waiting), RateLimit(rate)
        self.routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health},
            "/v1/models": {"GET": self._models},
            "/v1/embeddings": {"POST": self._embeddings},
            "/search": {"POST": self._search},
        }

    async def __call__(self, request: Request) -> Response:
        """Answer a request; what is refused is answered with the reason."""
        try:
            handler = self._route(request)
            return _json(200, await handler(request))
        except Refusal as refusal:
            return _json(refusal.status, refusal.body(), refusal.headers())

    def _route(self, request: Request) -> Handler:
        path = request.url.path.rstrip("/") or "/health"
        methods = self.routes.get(path)
        if methods is None:
            raise Refusal(404, f"there is no {path}; there are {', '.join(self.routes)}", "not_found")
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise Refusal(405, f"{path} takes {allowed}, not {request.method}", "method_not_allowed", allow=allowed)
        if path != "/health":
            self._authorize(request.headers.get("authorization", ""))
        return methods[request.method]

    def _authorize(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        digest = hashlib.sha256(token.strip().encode()).digest()
        if self.token and not (scheme.lower() == "bearer" and hmac.compare_digest(digest, self.token)):
            raise Refusal(401, "the request bears no valid token; send Authorization: Bearer TOKEN", "unauthorized")

    async def _health(self, _: Request) -> dict[str, Any]:
        return {"status": "ok", **self.model.describe()}

    async def _models(self, _: Request) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": self.model.name, "object": "model", "owned_by": "tripletail"}]}

    async def _embeddings(self, request: Request) -> dict[str, Any]:
        self.rate.take()
        with self.gate.enter():
            parsed = parse(EmbeddingRequest, await self._body(request))
            if parsed.model not in (None, self.model.name):
                message = f"there is no model '{parsed.model}'; this server has '{self.model.name}'"
                raise Refusal(404, message, "model_not_found")
            if (parsed.dimensions or 0) > self.model.encoder.dim:
                message = f"dimensions {parsed.dimensions} are more than the model's {self.model.encoder.dim}"
                raise Refusal(400, message, "invalid_value")
            check_texts(parsed.input, self.limits)
            vectors = await self.encode(TextsOfRole(parsed.input, parsed.input_type))
            tokens = self.model.token_count(parsed.input, parsed.input_type)
            return embeddings_answer(self.model.cut(vectors, parsed.dimensions), parsed, self.model.name, tokens)

    async def _search(self, request: Request) -> dict[str, Any]:
        self.rate.take()
        with self.gate.enter():
            parsed = parse(SearchRequest, await self._body(request))
            systems = list(self.model.searchers)
            if not systems:
                raise Refusal(404, "this server has no index to search in; start it with --index", "no_index")
            system = parsed.system or systems[0]
            if system not in systems:
                raise Refusal(400, f"there is no system '{system}'; choose from {', '.join(systems)}", "invalid_value")
            if parsed.top_k > self.limits.top_k:
                raise Refusal(400, f"top_k {parsed.top_k} is more than {self.limits.top_k}", "invalid_value")
            check_texts([parsed.query], self.limits)
            vector = await self.encode(TextsOfRole([parsed.query], "query"))
            hits = await self.search(system, parsed.query, vector, parsed.top_k)
            return {"system": system, "hits": [hit_answer(hit) for hit in hits]}

    async def _body(self, request: Request) -> bytes:
        """The body, read no further than its limit."""
        limit, parts, size = self.limits.body_bytes, [], 0
        too_long = Refusal(413, f"the body is longer than {limit} bytes", "body_too_long")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_long
        try:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_long
                parts.append(part)
        except ClientDisconnect as error:
            raise Refusal(400, "the body ended early", "invalid_json") from error
        return b"".join(parts)


def embeddings_answer(vectors: Floats, parsed: EmbeddingRequest, name: str, tokens: int) -> dict[str, Any]:
    """An answer of OpenAI's interface; base64 is of little-endian float32 numbers, as its clients read it."""
    rows: list[Any] = vectors.tolist()
    if parsed.encoding_format == "base64":
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in np.asarray(vectors)]
    data = [{"object": "embedding", "index": number, "embedding": row} for number, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": name, "usage": usage}


def hit_answer(hit: Hit) -> dict[str, Any]:
    """A document that was found, as JSON."""
    return {"id": hit.doc_id, "score": hit.score, "title": hit.title, "columns": hit.columns}


def _json(status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, default=str, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode(), status, headers, media_type="application/json")
