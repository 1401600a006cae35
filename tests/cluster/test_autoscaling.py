"""A node type with GPUs at zero nodes, under Ray's own autoscaler: asked for, waited for, refused in one line."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_job_submit import RAY, free_ports, stop
from tests.support.checkout import ROOT

pytestmark = pytest.mark.ray
JOB = """
from pipeline.core import capacity, ray_session
from pipeline.core.errors import UserError

ray_session.start()
print(ray_session.cluster())
capacity.bring_gpus("train", 2, limit_s=200)
print(ray_session.cluster())
try:
    capacity.bring_gpus("train", 3, limit_s=5)
except UserError as error:
    print(error)
"""
TYPES = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
}


@pytest.fixture
def head() -> Iterator[str]:
    """The address of a head without CPUs whose autoscaler starts nodes as processes of this machine."""
    gcs, dashboard, client, agent = free_ports(4)
    folder = tempfile.mkdtemp(prefix="tt-", dir="/tmp")  # socket paths must be short
    address = f"127.0.0.1:{gcs}"
    provider = {"type": "fake_multinode", "gcs_address": address}
    config = {"cluster_name": "fake", "max_workers": 2, "provider": provider, "available_node_types": TYPES}
    config |= {"head_node_type": "ray.head.default", "idle_timeout_minutes": 5, "upscaling_speed": 1.0, "auth": {}}
    (Path(folder) / "config.json").write_text(json.dumps(config))
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [
        *[*RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}"],
        *["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"],
        *[f"--dashboard-agent-listen-port={agent}", "--num-cpus=0", f"--object-store-memory={100 << 20}"],
        f"--autoscaling-config={folder}/config.json",
    ]
    with (Path(folder) / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        started = time.monotonic()
        while "Ray runtime started" not in (text := (Path(folder) / "head.log").read_text()):
            assert process.poll() is None and time.monotonic() - started < 200, text
            time.sleep(0.5)
        yield address
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(600)
def test_a_gpu_type_at_zero_nodes_is_asked_for_and_waited_for(head: str):
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_ADDRESS": head, "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", JOB]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=350, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    before, after, refused = done.stdout.strip().splitlines()[-3:]
    assert before == "1 node with 0 CPUs"
    assert after == "1 node with 0 CPUs, 2 nodes with 1 CPU and 1 GPU"
    assert "train: asks the autoscaler for 2 GPUs; 1 node with 0 CPUs now" in done.stderr
    assert refused.startswith("train: 3 GPUs were asked for and have not come in 5 s: 1 node with 0 CPUs, 2 nodes")
