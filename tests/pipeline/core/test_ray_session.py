"""A local session's ports: the dashboard on loopback, and nobody let in without the token of the session."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT

SESSION = """
import json, sys
from pipeline.core import ray_session
ray_session.start()
import ray
def uses_ray(size):
    ray_session.start_for(size, 10)
    return ray_session.is_up()

print(json.dumps({
    "small": uses_ray(10), "large": uses_ray(11), "again": uses_ray(10),
    "sum": ray.get(ray.remote(lambda: sum([1, 2])).remote()),
    "address": ray.get_runtime_context().gcs_address,
    "dashboard": ray._private.worker._global_node.address_info["webui_url"],
}), flush=True)
sys.stdin.read()
"""
FAILING = """
import ray
from pathlib import Path
from ray._private import services
from pipeline.core import ray_session, ray_start

get_node, calls = services.get_node, []

def failing(*arguments):  # an error in the first start, when its processes are up; then a node that is late
    calls.append(arguments)
    if len(calls) == 1:
        raise ValueError("the machine is busy. Very busy")
    if len(calls) < 5:
        raise RuntimeError("not registered yet")
    return get_node(*arguments)

services.get_node = failing
ray_session.start()
print(ray.get(ray.remote(lambda: 3).remote()), len(calls), ray_start.os.environ["RAY_DASHBOARD_STARTUP_TIMEOUT_S"])
servers = [p for p in Path("/proc").glob("[0-9]*/stat") if f" {ray_start.os.getpid()} " in p.read_text()]
print(sum("gcs_server" in path.read_text() and ") Z" not in path.read_text() for path in servers))
"""
REFUSED = """
from pipeline.core import ray_start

def refused():
    raise ConnectionError("no answer from the head. See its logs")

ray_start.connect(refused, "joining the cluster at head:6379")
"""
JOIN = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); print('JOINED')"
JOBS = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(f"http://{sys.argv[1]}/api/jobs/", timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def stranger(home: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of another user: without the token, and with another home."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(home)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_nobody_without_the_token_gets_in(tmp_path: Path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(tmp_path / "own"), "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", SESSION]
    with subprocess.Popen(
        command, env=env, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            told = json.loads(process.stdout.readline())
            assert told["sum"] == 3
            assert (told["small"], told["large"], told["again"]) == (False, True, False), "its own session is aside"
            assert told["dashboard"].startswith("127.0.0.1:")
            assert stranger(tmp_path, JOBS, told["dashboard"]).stdout.strip() in ("401", "403")
            joined = stranger(tmp_path, JOIN, told["address"])
            assert joined.returncode != 0 and "JOINED" not in joined.stdout, joined.stdout
        finally:
            process.stdin.close()
            process.wait(60)


def test_a_start_that_fails_is_tried_again_and_one_that_is_late_is_waited_for(tmp_path: Path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command, env = [sys.executable, "-c", FAILING], env | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=400, check=True)
    started, servers = done.stdout.splitlines()
    assert started.split() == ["3", "5", "180"]
    assert servers == "1"  # those of the first start have ended
    assert "ray: the start of a local session failed after" in done.stderr and "busy); one more time" in done.stderr


def test_what_fails_twice_is_one_line():
    done = subprocess.run([sys.executable, "-c", REFUSED], cwd=ROOT, capture_output=True, text=True, check=False)
    *_, last = done.stderr.strip().splitlines()
    assert "UserError: ray: joining the cluster at head:6379 failed twice in" in last
    assert "ConnectionError: no answer from the head; the machine has" in last
