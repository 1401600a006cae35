"""The start of Ray, waited for: a machine under load needs minutes for what Ray allows half of one."""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.progress import say

LIMIT_S = 180  # Ray's own limits are between 30 and 100 s
LIMITS = {
    "RAY_gcs_server_port_wait_time_s": f"{LIMIT_S}",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": f"{LIMIT_S}",
    "RAY_worker_register_timeout_seconds": f"{LIMIT_S}",
    "RAY_agent_register_timeout_ms": f"{LIMIT_S * 1000}",
}


def raise_limits() -> None:
    """Let the processes of a local session take `LIMIT_S` to start, unless the environment says otherwise.

    Ray reads one of these when it is imported.
    """
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)


def connect(init: Callable[[], Any], what: str) -> None:
    """Call `ray.init` as `init` does, and once more where that fails; `what` says what is started or joined.

    Raises UserError, one line with Ray's reason and the load of the machine, where the second call fails too.
    """
    started = time.monotonic()
    try:
        _init(init)
    except Exception as error:
        say(f"ray: {what} failed after {time.monotonic() - started:.0f} s ({_reason(error)}); one more time")
        try:
            _init(init)
        except Exception as again:
            raise UserError(
                f"ray: {what} failed twice in {time.monotonic() - started:.0f} s: {_reason(again)}; the machine has "
                f"{os.cpu_count()} CPUs and a load of {os.getloadavg()[0]:.0f}: run the same command again when it is "
                "less busy"
            ) from again


def _reason(error: Exception) -> str:
    """The first sentence of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".partition(". ")[0].rstrip(". :")


def _init(init: Callable[[], Any]) -> None:
    """Call `init`; where it fails, end the processes that it has started and forgotten."""
    import ray

    try:
        with waiting_for_the_node():
            init()
    except Exception as error:
        ray.shutdown()
        for frame, _ in traceback.walk_tb(error.__traceback__):
            node = frame.f_locals.get("self")
            if isinstance(node, ray._private.node.Node):
                node.kill_all_processes(check_alive=False, allow_graceful=False)
        raise


@contextmanager
def waiting_for_the_node() -> Iterator[None]:
    """Wait `LIMIT_S` for a new node to register; Ray gives up after 30 s, a number that no setting changes."""
    from ray._private import services

    get_node = services.get_node

    def patient_get_node(*arguments: Any) -> Any:
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:  # not registered yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    services.get_node = patient_get_node
    try:
        yield
    finally:
        services.get_node = get_node
