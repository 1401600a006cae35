"""The Ray session of a job: the cluster that the job was submitted to, or a quiet local one."""

import json
import logging
import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.core import plugins, ray_start
from pipeline.core.cluster import Cluster, Node, NodeType

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
LOCAL: dict[str, Any] = {
    "address": "local",  # never another cluster that happens to run on this machine
    "include_dashboard": True,
    "dashboard_host": "127.0.0.1",
    "log_to_driver": False,
    "logging_level": "ERROR",
}


@dataclass
class _State:
    """What this process has done with Ray: started a session of its own, and set it aside for a small input."""

    own: bool = False
    aside: bool = False


_state = _State()


def start() -> None:
    """Connect to Ray once; a local session shows its dashboard on loopback, and Ray wants its token on every port.

    A start on a machine under load is waited for, and tried once more (`ray_start`). Raises UserError where it fails.

    Under `ray job submit` (RAY_ADDRESS is set) this joins the job's cluster and changes nothing of its settings. The
    user's own modules that a recipe has named go to every worker.
    """
    address, _state.aside = os.environ.get("RAY_ADDRESS"), False
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not address:
        ray_start.raise_limits()
    import ray

    if ray.is_initialized():
        return
    if address:
        joined = partial(ray.init, log_to_driver=False, runtime_env=_own_modules())
        ray_start.connect(joined, f"joining the cluster at {address}")
    else:
        ray_start.connect(partial(ray.init, **LOCAL, runtime_env=_own_modules()), "the start of a local session")
        _state.own = True
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.default_hash_shuffle_parallelism = max(2, cpus())
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)  # its plan and timings stay in the session's log files


def start_for(size: int, limit: int, *, required: bool = False) -> None:
    """Start a session for an input of `size`, unless it is at most `limit`: that is worked on in this process.

    The cluster that the job was submitted to is used, and so is a session of the caller's; one that an earlier job in
    this process started for itself is not, since actors take longer to start than a small input to be worked on.
    `required` says that the settings ask for a session whatever the size.
    """
    if size > limit or required or os.environ.get("RAY_ADDRESS"):
        start()
    else:
        _state.aside = _state.own


def is_up() -> bool:
    """Whether this process is connected to Ray and the job uses it; Ray is not imported for the answer."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized()) and not _state.aside


def _own_modules() -> dict[str, Any]:
    """Runtime environment with the user's modules, or none; a job that was submitted with `py_modules` has its own."""
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    modules = plugins.shipped()
    return {"py_modules": modules} if modules and "py_modules" not in submitted else {}


def cluster(types: tuple[NodeType, ...] = ()) -> Cluster:
    """Return the nodes that are alive, or this process as one node where no session is up; it uses one GPU at most."""
    if not is_up():
        import torch

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return Cluster((Node(float(cores), float(torch.cuda.is_available())),))
    import ray

    return Cluster(tuple(Node.of(node["Resources"]) for node in ray.nodes() if node["Alive"]), types)


def cpus() -> int:
    """Return the CPUs of the cluster, at least 1."""
    return max(1, int(cluster().cpus))


def gpus() -> int:
    """Return the GPUs of the cluster."""
    return cluster().gpus
