"""A language model behind an address that speaks OpenAI's chat completions: vLLM, Ollama, llama.cpp, or a service."""

import os
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from pipeline.core.actor_pool import Pool
from pipeline.core.config import SECRET
from pipeline.core.errors import UserError
from pipeline.generation.http_client import HttpFailure, JsonClient, Retries
from pipeline.generation.language_model import FAILED, Answerer, LanguageModel, Reply, Request

WRONG_SETTING = frozenset({301, 302, 307, 308, 401, 402, 403, 404, 405})  # no other request would fare better
MAX_TOKENS_TOLD = 10_000_000  # of one request; a server that says more is not believed


class OpenAIServer(LanguageModel):
    """A server with OpenAI's interface. The key is named by its environment variable and is written down nowhere."""

    type: Literal["openai"] = "openai"
    no_result: ClassVar[frozenset[str]] = frozenset(
        {"base_url", "api_key_env", "concurrency", "timeout", "retries", "first_wait", "longest_wait", "price"}
        | {"max_failures"}
    )
    base_url: str = Field(description="address up to and without /chat/completions, such as http://127.0.0.1:8000/v1")
    api_key_env: str | None = Field(None, description="environment variable that holds the key; default: no key")
    concurrency: int = Field(8, ge=1, le=512, description="requests at a time")
    timeout: float = Field(120, gt=0, description="seconds for an answer")
    retries: int = Field(6, ge=0, description="of a request that failed in passing")
    first_wait: float = Field(1.0, gt=0, description="seconds before the first retry; then doubled, with jitter")
    longest_wait: float = Field(60, gt=0, description="seconds of a wait at most, also where Retry-After asks for more")
    extra_body: dict[str, Any] = Field(
        {}, description="further fields of a request, such as {response_format: {type: json_object}}; null removes one"
    )

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("wanted an address such as http://127.0.0.1:8000/v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("an address holds no user, password or query; name the key's variable in api_key_env")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_variable(cls, name: str | None) -> str | None:
        if name is not None and not name.isidentifier():
            raise PydanticCustomError(  # whose message does not repeat the value: it may be the key
                SECRET, "wanted the name of an environment variable, such as OPENAI_API_KEY, never the key itself"
            )
        return name

    def check(self) -> None:
        """Raise UserError where the key's variable is not set."""
        self._key()

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env, "").strip()):
            raise UserError(f"generator.api_key_env: the environment variable {self.api_key_env} is not set")
        return key

    def pool(self, num_actors: int | None, items: int) -> Pool:
        """One worker, unless more are asked for: it waits for the server, and `concurrency` is what the server sees."""
        return Pool.plan(num_actors or 1, items, on_gpus=False)

    def start(self, threads: int) -> Answerer:
        """Make a client with the key from the environment."""
        return ChatClient(self, self._key())


class ChatClient:
    """Asks a server, several requests at a time."""

    def __init__(self, config: OpenAIServer, key: str | None) -> None:
        retries = Retries(config.retries, config.first_wait, config.longest_wait)
        self.config = config
        self.client = JsonClient(f"{config.base_url}/chat/completions", key, config.timeout, retries)

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests [N]; raises UserError for statuses that say that a setting is wrong."""
        self.client.stopped.clear()
        pool = ThreadPoolExecutor(min(self.config.concurrency, max(1, len(requests))))
        try:
            futures = [pool.submit(self._answer, request) for request in requests]
            wait(futures, return_when=FIRST_EXCEPTION)  # an error is seen while others still wait for a retry
            for failed in (future for future in futures if future.done()):
                failed.result()
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C too: nobody waits for retries
            self.client.stopped.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, request: Request) -> Reply:
        try:
            answer = self.client.post(self._body(request), request.seed)
        except HttpFailure as failure:
            if failure.status in WRONG_SETTING:
                raise UserError(
                    f"generator: {self.client.url} answered {failure}; look at base_url, model and api_key_env"
                ) from failure
            return Reply(error=FAILED, detail=str(failure), notes={"retries": failure.retries})
        return _reply(answer.value, answer.retries)

    def _body(self, request: Request) -> dict[str, Any]:
        config = self.config
        body: dict[str, Any] = {"model": config.model, "messages": [{"role": "user", "content": request.prompt}]}
        body |= {"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens}
        body |= {"seed": request.seed, **config.extra_body}
        return {name: value for name, value in body.items() if value is not None}


def _reply(value: Any, retries: int) -> Reply:
    """The reply in the body of a completion, whatever shape it has."""
    notes = {"retries": retries} | _usage(value)
    try:
        choice = value["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Reply(error="no_completion", detail="the body is no chat completion", notes=notes)
    if refusal or finish == "content_filter":
        return Reply(error="refusal", detail=str(refusal or finish)[:200], notes=notes)
    if not isinstance(content, str | None):
        return Reply(error="no_completion", detail="the message is no text", notes=notes)
    if finish == "length":
        return Reply(error="cut_off", detail="longer than max_tokens", notes=notes)
    return Reply(text=content or "", notes=notes)


def _usage(value: Any) -> dict[str, int]:
    """Tokens that a completion says it used; a count of completions that say nothing."""
    usage = value.get("usage") if isinstance(value, dict) else None
    names = {"prompt_tokens": "prompt_tokens", "answer_tokens": "completion_tokens"}
    counts = {name: usage.get(field) if isinstance(usage, dict) else None for name, field in names.items()}
    if not all(isinstance(count, int) and 0 <= count <= MAX_TOKENS_TOLD for count in counts.values()):
        return {"answers_without_usage": 1}
    return {name: int(count or 0) for name, count in counts.items()}
