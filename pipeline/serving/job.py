"""The server: Ray Serve started with the settings' application, and ended with the process or by a signal."""

import hashlib
import logging
import os
import signal
import socket
import threading
from contextlib import suppress

from pipeline.core import ray_session
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.serving.config import ServeConfig
from pipeline.serving.served_model import ServedModel
from pipeline.serving.server import NAME, Server

_FASTER = {  # Serve's own settings for a session that is started here: nothing in a replica blocks its event loop
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}
_PROXY_CPUS = 1  # left to Serve's proxy where a replica takes its default share


def run(config: ServeConfig) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that are being answered then still are.

    Raises UserError for what `start` refuses.
    """
    stop = threading.Event()
    with start(config):
        for name in (signal.SIGINT, signal.SIGTERM):  # only now: Ray puts its own handlers in place when it starts
            signal.signal(name, lambda *_: stop.set())
        say("serve: Ctrl-C ends it")
        stop.wait()
        say("serve: ends; requests that are being answered still are")


def start(config: ServeConfig) -> Server:
    """Start the server and return when it answers.

    Raises UserError without the extra, a model or an index that belong together, a free port, and CPUs enough.
    """
    for name, value in _FASTER.items():
        os.environ.setdefault(name, value)  # before Serve is imported, which reads them then
    require_serve()
    described = ServedModel(config, "cpu").describe()  # on the driver, where errors show early
    port = free_port(config.host, config.port)
    token = token_digest(config)
    server = _deploy(config, port, token)
    systems = described.get("systems")
    what = f"{described['vectors']:,} vectors by {', '.join(systems)}" if systems else "no index"
    say(f"serve: {server.url}: {described['model']}, {described['dimensions']} dimensions, {what}")
    say(_exposure(config, token is not None))
    return server


def _deploy(config: ServeConfig, port: int, token: bytes | None) -> Server:
    """Start Ray where it is not up, and Serve with the application."""
    import ray

    owns = not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")
    ray_session.start()
    threads, gpus = share(config)
    from ray import serve

    from pipeline.serving.replica import application

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    server = Server(f"http://{_address(config.host)}:{port}", owns, not _serve_is_up())
    try:
        serve.start(
            proxy_location="HeadOnly" if config.is_loopback else "EveryNode",
            http_options={"host": config.host, "port": port, "request_timeout_s": config.limits.seconds},
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )
        serve.run(application(config, threads, gpus, token), name=NAME, route_prefix="/")
        _require_own_proxy(server.url)
    except BaseException:
        with suppress(Exception):
            server.close()
        raise
    return server


def _serve_is_up() -> bool:
    """Whether the cluster runs a Serve already, whose address cannot be changed."""
    import ray

    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def require_serve() -> None:
    """Raise UserError that names the extra where Ray Serve is not installed."""
    try:
        import starlette  # noqa: F401
        from ray import serve  # noqa: F401
    except ImportError as error:
        raise UserError("serve: needs Ray Serve; install it with `pip install 'tripletail[serve]'`") from error


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; raises UserError where the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise UserError(
                f"serve: cannot listen on {host}:{port}: {error.strerror or error}; choose --port"
            ) from error
        return int(listener.getsockname()[1])


def token_digest(config: ServeConfig) -> bytes | None:
    """SHA-256 of the token in the environment; None where there is none. The token itself goes nowhere."""
    token = os.environ.get(config.token_env, "").strip()
    return hashlib.sha256(token.encode()).digest() if token else None


def share(config: ServeConfig) -> tuple[int, float]:
    """Threads and GPUs of a replica; raises UserError where the cluster has too few for all replicas."""
    cpus = ray_session.cpus()
    threads = config.threads or max(1, (cpus - _PROXY_CPUS) // config.replicas)
    gpus = config.gpus if config.gpus is not None else float(ray_session.gpus() >= config.replicas)
    if threads * config.replicas > cpus or gpus * config.replicas > ray_session.gpus():
        raise UserError(
            f"serve: {config.replicas} replicas of {threads} threads and {gpus:g} GPUs are more than the cluster's "
            f"{cpus} CPUs and {ray_session.gpus()} GPUs; lower --replicas, --threads or --gpus"
        )
    return threads, gpus


def _require_own_proxy(url: str) -> None:
    """Raise UserError where Serve was up already and listens elsewhere: its address is of the whole cluster."""
    import requests

    try:
        requests.get(f"{url}/health", timeout=30).raise_for_status()
    except requests.RequestException as error:
        raise UserError(f"serve: {url} does not answer; another Serve of this cluster may own its address") from error


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host


def _exposure(config: ServeConfig, has_token: bool) -> str:
    """Say who can reach the server, and what they need."""
    reach = "this machine alone" if config.is_loopback else f"whoever can reach {config.host}"
    need = "with the token" if has_token else f"without a token (set {config.token_env} to ask for one)"
    return f"serve: open to {reach}, {need}"
