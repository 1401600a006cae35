"""The server as people start it: two replicas under load, one of them killed, and the end by a signal."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from pipeline.search.query import Searcher
from pipeline.storage.artifact import Artifact
from pipeline.storage.vectors import to_matrix
from tests.support.checkout import ROOT

psutil = pytest.importorskip("psutil")
pytest.importorskip("starlette", reason="the extra [serve] is not installed")
REPLICA = "ray::ServeReplica:tripletail:replica"


def start(run: Path) -> tuple[subprocess.Popen[str], str]:
    """The command and the address that it says it answers at."""
    words = ["--run", str(run), "--port", "0", "--replicas", "2", "--threads", "1"]
    env = {**os.environ, "RAY_TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"}
    env.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "scripts.serve", *words]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    lines: list[str] = []
    while not any("Ctrl-C ends it" in line for line in lines):
        lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
    return process, next(line.split()[1].removesuffix(":") for line in lines if line.startswith("serve: http"))


def replicas(process: subprocess.Popen[str]) -> list[Any]:
    below = psutil.Process(process.pid).children(recursive=True)
    return [child for child in below if REPLICA in " ".join(child.cmdline()[:1])]


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for its exit code does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_vectors_are_the_jobs_and_a_killed_replica_gives_no_wrong_answer(served_run):
    table = Artifact.open(str(served_run / "vectors"), "embed").read("vectors")
    texts, vectors = table["text"].to_pylist(), to_matrix(table["vector"])
    process, url = start(served_run)
    try:
        started = time.monotonic()

        def ask(number: int) -> tuple[int, float]:
            """Status of a request for three vectors, and how far they are from the job's."""
            rows = [number % 60, (number * 7) % 60, (number * 13) % 60]
            body = {"input": [texts[row] for row in rows]}
            try:
                answer = requests.post(f"{url}/v1/embeddings", json=body, timeout=60)
            except requests.ConnectionError:
                return 0, 0.0
            if answer.status_code != 200:
                return answer.status_code, 0.0
            got = np.array([row["embedding"] for row in answer.json()["data"]], np.float32)
            return 200, float(np.abs(got - vectors[rows]).max())

        first, second = replicas(process)
        with ThreadPoolExecutor(8) as clients:
            answers = clients.map(ask, range(240))
            time.sleep(0.5)
            first.kill()
            results = list(answers)
        assert max(error for _, error in results) < 1e-5
        failed = [status for status, _ in results if status != 200]
        assert all(status in (0, 500, 503) for status in failed) and len(failed) < 60, failed
        while len(replicas(process)) < 2:
            assert time.monotonic() - started < 120, "the killed replica did not come back"
            time.sleep(0.5)
        assert second.is_running()
        answer = requests.post(f"{url}/search", json={"query": "red kettle", "top_k": 3, "system": "mix"}, timeout=60)
        hits = Searcher(str(served_run / "index"), system="mix")("red kettle", 3)
        assert [hit["id"] for hit in answer.json()["hits"]] == [hit.doc_id for hit in hits]
        port, below = int(url.rpartition(":")[2]), psutil.Process(process.pid).children(recursive=True)
        listening = [entry.laddr for child in below for entry in child.net_connections() if entry.status == "LISTEN"]
        assert {address.ip for address in listening if address.port == port} == {"127.0.0.1"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0 and not [child for child in below if is_alive(child)]
    finally:
        process.kill()
