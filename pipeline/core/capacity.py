"""What a job runs on: this process, or a session with its GPUs, which are asked of Ray's autoscaler and waited for."""

import time
from collections.abc import Callable
from pathlib import Path

import yaml

from pipeline.core import ray_session
from pipeline.core.cluster import Cluster, NodeType, node_types
from pipeline.core.config import EncodingJobConfig
from pipeline.core.errors import UserError
from pipeline.core.progress import say

LAUNCHER_CONFIG = Path("~/ray_bootstrap_config.yaml")  # where `ray up` leaves it on the head
LIMIT_S = 1200.0  # of a machine with GPUs to start and to load its image
LOOK_S = 3.0


def start(job: str, config: EncodingJobConfig, rows: int) -> None:
    """Start a session for a job that encodes so many texts, with the GPUs that it wants; none for a small input."""
    ray_session.start_for(rows, config.in_process_rows, required=config.wants_cluster)
    bring_gpus(job, config.gpus, config.num_actors)


def startable_types(path: Path = LAUNCHER_CONFIG) -> tuple[NodeType, ...]:
    """Node types that the autoscaler may start, as the launcher's configuration on this head has them, if it is one."""
    path = path.expanduser()
    return node_types(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else ()


def gpus_to_ask_for(cluster: Cluster, requested: int | None, workers: int | None) -> int:
    """GPUs that a job has to ask the autoscaler for; 0 where it takes what is up.

    `requested` is what the settings say. Without it, GPUs are asked for where none is up and the node types could bring
    some: one a worker, or all where the number of workers is not given.
    """
    if requested is not None:
        return requested if requested > cluster.gpus else 0
    if cluster.gpus or not cluster.max_gpus:
        return 0
    return min(workers or cluster.max_gpus, cluster.max_gpus)


def bring_gpus(job: str, requested: int | None, workers: int | None = None, limit_s: float = LIMIT_S) -> None:
    """Ask for the GPUs that a job wants and are not up, and wait for them.

    The request is withdrawn when they are there: from then on the job's own workers hold the nodes. Raises UserError
    where they do not come within `limit_s`; nothing happens where no session is up.
    """
    if not ray_session.is_up():
        return
    count = gpus_to_ask_for(ray_session.cluster(startable_types()), requested, workers)
    if not count:
        return
    from ray.autoscaler.sdk import request_resources

    say(f"{job}: asks the autoscaler for {count} GPUs; {ray_session.cluster()} now")
    request_resources(bundles=[{"GPU": 1}] * count)
    try:
        _wait(lambda: ray_session.cluster().gpus >= count, limit_s)
    finally:
        request_resources(bundles=[])
    if (cluster := ray_session.cluster()).gpus < count:
        raise UserError(
            f"{job}: {count} GPUs were asked for and have not come in {limit_s:.0f} s: {cluster}; let the autoscaler "
            "start more nodes with GPUs, or set `gpus: 0` to go on with what is up"
        )


def _wait(ready: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not ready() and time.monotonic() < end:
        time.sleep(min(LOOK_S, max(0.0, end - time.monotonic())))
