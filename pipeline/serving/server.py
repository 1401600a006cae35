"""A server that runs: where it answers, and how it ends."""

from dataclasses import dataclass
from typing import Self

NAME = "tripletail"  # of the application in Serve


@dataclass
class Server:
    """A server that answers until `close`; also a context manager.

    with start(ServeConfig(run="runs/shop", port=0)) as server:
        requests.post(f"{server.url}/search", json={"query": "wireless headphones"})
    """

    url: str
    owns_session: bool = False  # whether Ray was started for it, and ends with it
    owns_serve: bool = False  # whether the cluster's Serve was

    def close(self) -> None:
        """Let requests that are being answered end, then stop; more calls do nothing."""
        import ray
        from ray import serve

        if not ray.is_initialized():
            return
        if self.owns_serve and not self.owns_session:
            serve.shutdown()
            return
        serve.delete(NAME)
        if self.owns_session:
            ray.shutdown()

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.close()
