"""The Ray session of a job: the cluster that the job was submitted to, or a quiet local one."""

import json
import logging
import math
import os
from typing import Any

from pipeline.core import plugins

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def start() -> None:
    """Connect to Ray once; a local session shows its dashboard on loopback, and Ray wants its token on every port.

    Under `ray job submit` (RAY_ADDRESS is set) this joins the job's cluster and changes nothing of its settings. The
    user's own modules that a recipe has named go to every worker.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, runtime_env=_own_modules())
    else:
        ray.init(
            address="local",  # never another cluster that happens to run on this machine
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env=_own_modules(),
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.default_hash_shuffle_parallelism = max(2, cpus())
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)  # its plan and timings stay in the session's log files


def _own_modules() -> dict[str, Any]:
    """Runtime environment with the user's modules, or none; a job that was submitted with `py_modules` has its own."""
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    modules = plugins.shipped()
    return {"py_modules": modules} if modules and "py_modules" not in submitted else {}


def cpus() -> int:
    """Return the CPUs of the cluster, at least 1."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def gpus() -> int:
    """Return the GPUs of the cluster."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def node_cpus() -> list[float]:
    """Return the CPUs of each node that is alive."""
    import ray

    return [float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def cpus_per_actor(count: int, share: float) -> float:
    """Return the CPUs for each of `count` actors, at most `share`, with which they all fit on the nodes.

    An actor is on one node. Where they do not fit with one CPU each, it is one all the same, or less with `share`.
    """
    cpus_by_node = node_cpus()
    for each in [share, *range(math.ceil(share) - 1, 0, -1)]:
        if sum(int(cpus / each + 1e-9) for cpus in cpus_by_node) >= count:
            return float(each)
    return min(share, 1.0)
