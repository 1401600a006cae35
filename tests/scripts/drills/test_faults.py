"""Faults made for real: a disk that is full, a store that refuses, memory that runs out."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from werkzeug.wrappers import Request, Response

from pipeline.core.config import user_cause
from pipeline.storage.artifact import Artifact, Draft, begin
from tests.support.checkout import ROOT
from tests.support.corpora import build, inline, table, write_jsonl  # noqa: F401  a fixture
from tests.support.s3 import Store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A disk of 400 KB in memory, and a function that gives it another size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("size=400k"):
        pytest.skip("this user may not mount a disk in memory")
    yield disk, lambda size: mount("remount", f"size={size}")
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_named_and_the_same_command_goes_on_with_room(inline, tmp_path, small_disk):  # noqa: F811
    disk, resize = small_disk
    names = [os.urandom(200).hex() for _ in range(3000)]
    faq = [{"question": f"How is part {n} of {name} mended?", "answer": f"By {n}."} for n, name in enumerate(names)]
    write_jsonl(tmp_path / "faq.jsonl", faq)
    recipe = {"root": str(tmp_path), "sources": [{"type": "jsonl", "kind": "qa", "path": "faq.jsonl"}], "buckets": 2}
    with pytest.raises(Exception) as refused:
        build(recipe, disk / "run")
    assert "No space left on device" in str(user_cause(refused.value))
    assert not (disk / "run" / "data" / "manifest.json").exists()
    resize("64m")
    expected = build(recipe, tmp_path / "elsewhere")
    found = build(recipe, disk / "run")
    for name in expected.manifest.tables:
        assert table(found, name) == table(expected, name)
    assert not list((disk / "run" / "data").rglob("*.partial"))


class FailingStore(Store):
    """A store of which every n-th write fails as a busy store's do; with n = 1 all of them, with 0 none."""

    def __init__(self) -> None:
        super().__init__()
        self.every = self.writes = self.failed = 0

    def answer(self, environ, start_response):
        request = Request(environ)
        if request.method in ("PUT", "POST") and self.every:
            self.writes += 1
            if self.writes % self.every == 0:
                self.failed += 1
                request.get_data()
                body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
                return Response(body, status=503, mimetype="application/xml")(environ, start_response)
        return super().answer(environ, start_response)


@pytest.fixture
def store(monkeypatch) -> Iterator[FailingStore]:
    pytest.importorskip("s3fs", reason="needs the extra 's3'")
    failing = FailingStore()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    with failing.serving(monkeypatch):
        yield failing
        failing.every = 0


def make(path: str) -> Artifact:
    import pyarrow as pa

    draft = begin(path, "embed", {"a": 1}, {}, overwrite=False, resume=True)
    if isinstance(draft, Draft):
        for part in range(4):
            draft.write("rows", pa.table({"id": [f"{part}-{n}" for n in range(100)]}), part)
        return draft.finish(["rows"])
    return draft


def test_a_store_whose_writes_fail_now_and_then_holds_all_of_it(store):
    store.every = 3
    assert make(f"s3://{store.bucket}/a").rows("rows") == 400
    assert store.failed >= 2
    found = Artifact.open(f"s3://{store.bucket}/a", "embed").read("rows")
    assert found["id"].to_pylist() == [f"{part}-{n}" for part in range(4) for n in range(100)]


def test_a_store_that_takes_no_write_leaves_nothing_whole_and_the_same_command_goes_on(store):
    make(f"s3://{store.bucket}/before")
    store.every = 1
    with pytest.raises(Exception):  # noqa: B017
        make(f"s3://{store.bucket}/b")
    store.every = 0
    assert Artifact.open(f"s3://{store.bucket}/before", "embed").rows("rows") == 400
    assert make(f"s3://{store.bucket}/b").rows("rows") == 400


GREEDY = """
import os, sys, time
from functools import partial
from pathlib import Path
import psutil
memory = psutil.virtual_memory()
room = memory.available // 4  # bytes that all of the machine may take before Ray kills: other tests grow meanwhile
os.environ["RAY_memory_usage_threshold"] = f"{(memory.total - memory.available + room) / memory.total:.4f}"
os.environ["RAY_memory_monitor_refresh_ms"] = "100"
import ray
quiet = {"include_dashboard": False, "log_to_driver": False, "_temp_dir": sys.argv[2]}
ray.init(num_cpus=2, object_store_memory=100_000_000, **quiet)
from pipeline.storage import shuffle
from pipeline.storage.counts import Counts
seen = Path(sys.argv[1])

def task(folder, index):
    tally = Counts()
    tally.counts["rows"] = index
    mark = folder / f"tried-{index}-{time.time_ns()}"
    mark.touch()
    if index == 1 and len(list(folder.glob("tried-1-*"))) == 1:
        taken = [bytearray(os.urandom(1 << 20) * 50) for _ in range(int(room * 1.5) // (50 << 20))]  # pages are written
        time.sleep(60)
    return tally

counts = shuffle.run_tasks("greedy", 3, partial(task, seen), str(seen / "marks"), shuffle.ignore_progress)
print("ROWS", [one.counts["rows"] for one in counts], len(list(seen.glob("tried-1-*"))) > 1)
"""


def test_a_task_that_rays_memory_monitor_kills_is_done_again(tmp_path: Path):
    """The task takes, once, half more than Ray leaves to it; Ray kills its worker, and the task runs again."""
    import tempfile

    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_raylet_start_wait_time_s": "120"}
    with tempfile.TemporaryDirectory(prefix="tt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-c", GREEDY, str(tmp_path), folder]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert "ROWS [0, 1, 2] True" in result.stdout, result.stdout[-2000:] + result.stderr[-2000:]
