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
print(json.dumps({
    "sum": ray.get(ray.remote(lambda: sum([1, 2])).remote()),
    "address": ray.get_runtime_context().gcs_address,
    "dashboard": ray._private.worker._global_node.address_info["webui_url"],
}), flush=True)
sys.stdin.read()
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
            assert told["dashboard"].startswith("127.0.0.1:")
            assert stranger(tmp_path, JOBS, told["dashboard"]).stdout.strip() in ("401", "403")
            joined = stranger(tmp_path, JOIN, told["address"])
            assert joined.returncode != 0 and "JOINED" not in joined.stdout, joined.stdout
        finally:
            process.stdin.close()
            process.wait(60)
