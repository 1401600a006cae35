"""One writer a directory: others wait, a dead holder gives way, and a kill at any file leaves a state to go on from."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.storage import artifact, lease
from pipeline.storage.artifact import Artifact, Draft, begin
from tests.support.kills import run_until_killed
from tests.support.s3 import Store

ROWS = pa.table({"id": ["a", "b"]})
OTHER = lease.Holder("x", "embed", "ada", "another-host", 1, "another boot", "2026-01-01T00:00:00+00:00")
JOB = """
import sys, time
import pyarrow as pa
from pipeline.storage.artifact import Artifact, begin
path, seconds = sys.argv[1], float(sys.argv[2])
draft = begin(path, "embed", {"a": 1}, {"b": "2"}, overwrite=False)
print("returned" if isinstance(draft, Artifact) else "began", flush=True)
if not isinstance(draft, Artifact):
    time.sleep(seconds)
    draft.write("rows", pa.table({"id": ["a", "b"]}))
    draft.finish(["rows"])
    print("finished", flush=True)
"""


def start(path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def make(path: Path, *, overwrite: bool = False, **kwargs) -> Artifact:
    draft = begin(str(path), "embed", {"a": 1}, {"b": "2"}, overwrite=overwrite, **kwargs)
    if isinstance(draft, Draft):
        draft.write("rows", ROWS)
        return draft.finish(["rows"])
    return draft


def test_the_second_of_two_jobs_waits_and_returns_what_the_first_one_made(tmp_path):
    first = start(tmp_path / "out", 3.0)
    assert first.stdout is not None and first.stdout.readline() == "began\n"
    second = start(tmp_path / "out", 0.0)
    out, err = second.communicate(timeout=60)
    assert out == "returned\n"
    assert f"embed: {tmp_path}/out is being written by `embed` of" in err and f"process {first.pid}" in err
    assert first.communicate(timeout=60)[0] == "finished\n"
    assert not (tmp_path / "out.lease").exists()


def test_a_killed_holder_gives_way_at_once(tmp_path):
    first = start(tmp_path / "out", 600)
    assert first.stdout is not None and first.stdout.readline() == "began\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    begun = time.monotonic()
    assert make(tmp_path / "out").rows("rows") == 2
    assert time.monotonic() - begun < lease.EXPIRE_S / 2


def test_a_lease_of_another_machine_expires_when_it_is_not_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRE_S", 0.5)
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    (tmp_path / "out.lease").write_bytes(lease._content(OTHER))
    assert make(tmp_path / "out").rows("rows") == 2


def test_a_renewed_lease_is_waited_for_and_its_holder_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    (tmp_path / "out.lease").write_bytes(lease._content(OTHER))
    with pytest.raises(UserError, match=r"being written by `embed` of ada on another-host \(process 1, since 2026"):
        lease.acquire(str(tmp_path / "out"), "embed", wait_s=0.3)


def test_a_lease_that_is_renewed_again_and_again_does_not_expire(tmp_path, monkeypatch):
    """Its holder, of another machine, is heard of for four times as long as one that is silent is waited for."""
    monkeypatch.setattr(lease, "EXPIRE_S", 0.8)
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    path = tmp_path / "out.lease"
    path.write_bytes(lease._content(OTHER))
    over = threading.Event()

    def renew():
        while not over.wait(0.2):
            aside = tmp_path / "renewed"
            aside.write_bytes(lease._content(OTHER))
            aside.replace(path)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(UserError, match="being written by `embed` of ada on another-host"):
            lease.acquire(str(tmp_path / "out"), "embed", wait_s=3.2)
    finally:
        over.set()
        thread.join()


def test_a_job_whose_place_was_taken_publishes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    draft = begin(str(tmp_path / "out"), "embed", {}, {}, overwrite=False)
    assert isinstance(draft, Draft) and draft.lease is not None
    (tmp_path / "out.lease").write_bytes(lease._content(OTHER))
    for _ in range(100):
        if draft.lease.lost:
            break
        time.sleep(0.05)
    with pytest.raises(UserError, match="another one took its place"):
        draft.finish([])
    assert not (tmp_path / "out" / "manifest.json").exists()
    del draft
    assert (tmp_path / "out.lease").exists(), "the other job's lease is left alone"


def test_a_failed_job_in_a_longer_process_blocks_nobody(tmp_path):
    def fail() -> None:
        begin(str(tmp_path / "out"), "embed", {}, {}, overwrite=False)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not (tmp_path / "out.lease").exists()


def test_a_forked_child_that_drops_its_copy_gives_nothing_free(tmp_path):
    draft = begin(str(tmp_path / "out"), "embed", {}, {}, overwrite=False)
    assert isinstance(draft, Draft)
    child = os.fork()
    if child == 0:
        draft._release()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "out.lease").exists()
    del draft
    assert not (tmp_path / "out.lease").exists()


def test_a_process_that_ends_without_a_manifest_leaves_no_lease(tmp_path):
    code = "import sys; from pipeline.storage.artifact import begin; "
    code += "draft = begin(sys.argv[1], 'embed', {}, {}, overwrite=False)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=True)
    assert (tmp_path / "out").is_dir() and not (tmp_path / "out.lease").exists()


def test_a_finished_artifact_is_returned_where_nothing_can_be_written(tmp_path, monkeypatch):
    make(tmp_path / "out")
    monkeypatch.setattr(artifact, "acquire", lambda *_: pytest.fail("a lease for reading"))
    assert make(tmp_path / "out").rows("rows") == 2


def test_a_lease_on_an_object_store_is_exclusive(monkeypatch):
    pytest.importorskip("s3fs", reason="needs the extra 's3'")
    import s3fs

    store = Store()
    with store.serving(monkeypatch):
        fs, out = s3fs.S3FileSystem(), f"s3://{store.bucket}/out"
        held = lease.acquire(out, "embed")
        lease._ACTIVE.clear()  # as another process sees it
        with pytest.raises(UserError, match=f"process {os.getpid()}"):
            lease.acquire(out, "embed", wait_s=0.1)
        held.release()
        assert not fs.exists(f"{store.bucket}/out.lease")
        lease.acquire(out, "embed", wait_s=0.1).release()


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_job_killed_at_any_file_is_gone_on_with_or_replaced(tmp_path, resumable, overwrite):
    number = 0
    while True:
        number += 1
        path = tmp_path / f"out-{number}"
        if not run_until_killed(lambda path=path: make(path, resume=resumable), tmp_path, number):
            break
        whole = make(path, overwrite=overwrite, resume=resumable)
        assert whole.read("rows").equals(ROWS)
        assert not [entry.name for entry in path.rglob("*.partial")] or resumable
        shutil.rmtree(path)
    assert number > 10, "the kills found the job's files"


def test_a_replacement_killed_at_any_file_can_be_run_again(tmp_path):
    def replace(path: Path) -> Artifact:
        draft = begin(str(path), "embed", {"a": 2}, {"b": "2"}, overwrite=True)
        if isinstance(draft, Artifact):
            return draft
        draft.write("rows", ROWS)
        return draft.finish(["rows"])

    number = 0
    while True:
        number += 1
        path = tmp_path / f"out-{number}"
        make(path)
        if not run_until_killed(lambda path=path: replace(path), tmp_path, number):
            break
        if (path / "manifest.json").exists():
            assert Artifact.open(str(path), "embed").read("rows").equals(ROWS)
        assert replace(path).read("rows").equals(ROWS)
        shutil.rmtree(path)
    assert number > 15


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}"])
@pytest.mark.parametrize("name", ["plan.json", "config.json", "manifest.json"])
def test_a_record_cut_short_is_replaced(tmp_path, name, content):
    path = tmp_path / "out"
    make(path)
    if name != "manifest.json":
        (path / "manifest.json").unlink()
    (path / name).write_text(content)
    if name == "manifest.json":
        with pytest.raises(UserError, match="give --overwrite"):
            make(path)
    assert make(path, overwrite=True, resume=True).rows("rows") == 2


def test_only_the_config_or_only_the_plan_is_an_unfinished_artifact(tmp_path):
    for name in ("plan.json", "config.json", "config.json.1234.partial"):
        path = tmp_path / name.replace(".", "-")
        path.mkdir()
        (path / name).write_text(json.dumps({}))
        assert make(path, resume=True).rows("rows") == 2
