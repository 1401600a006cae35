"""A replica on Ray Serve: one model, whose texts are batched over requests, and one answer for each request."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from pipeline.core.actor_pool import limit_threads
from pipeline.search.query import Hit
from pipeline.serving.application import Application
from pipeline.serving.config import ServeConfig
from pipeline.serving.served_model import Floats, ServedModel, TextsOfRole


def count_texts(requests: Sequence[TextsOfRole]) -> int:
    """Size of a batch."""
    return sum(len(request.texts) for request in requests)


class Replica:
    """Answers requests; while a batch computes, the next one gathers, so that nobody waits for company.

    `rate` is this replica's share of the requests a second.
    """

    def __init__(self, config: ServeConfig, threads: int, device: str, token: bytes | None, rate: float | None) -> None:
        limit_threads(threads)
        self.model = ServedModel(config, device)
        self.model.encoder.use_runtime(threads)
        self.compute = ThreadPoolExecutor(1, "encode")  # two batches at once would share the same cores
        self.lookups = ThreadPoolExecutor(2, "search")
        self.vectors.set_max_batch_size(2 * config.limits.texts)  # so that a request of the most texts finds room soon
        self.application = Application(self.model, config.limits, self.vectors, self.search, token, rate)

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        return await self.application(request)

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=0.0, batch_size_fn=count_texts)  # type: ignore[untyped-decorator]
    async def vectors(self, requests: list[TextsOfRole]) -> list[Floats]:
        """Vectors of the texts of each request that has come since the last batch began."""
        return await asyncio.get_running_loop().run_in_executor(self.compute, self.model.encode, requests)

    async def search(self, system: str, query: str, vector: Floats, k: int) -> list[Hit]:
        """Documents of a query."""
        loop, args = asyncio.get_running_loop(), (system, query, vector, k)
        return await loop.run_in_executor(self.lookups, self.model.search, *args)


def application(config: ServeConfig, threads: int, gpus: float, token: bytes | None) -> Any:
    """The application that Serve runs."""
    limits = config.limits
    deployment = serve.deployment(
        Replica,
        name="replica",
        num_replicas=config.replicas,
        max_ongoing_requests=2 * limits.waiting,  # the replica's own gate refuses with a reason before
        max_queued_requests=2 * limits.waiting * config.replicas,
        ray_actor_options={"num_cpus": threads, "num_gpus": gpus},
        graceful_shutdown_timeout_s=min(limits.seconds, 30.0),
        health_check_period_s=2.0,
        logging_config={"enable_access_log": False},
    )
    rate = limits.requests_per_s and limits.requests_per_s / config.replicas
    return deployment.bind(config, threads, "auto" if gpus else "cpu", token, rate)
