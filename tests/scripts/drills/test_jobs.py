"""The drill that kills every job, with jobs of a second that need no cluster: right ones pass, a wrong one is found."""

import argparse
import sys
from pathlib import Path

import pytest

from pipeline.storage.artifact import Artifact
from scripts.drills import jobs

JOB = """
import sys, time
import pyarrow as pa
from pipeline.storage.artifact import Artifact, begin
from pipeline.storage.files import filesystem
path, kind, careless = sys.argv[1], sys.argv[2], sys.argv[3] == "careless"
draft = begin(path, kind, {}, {}, overwrite=False, resume=True)
if not isinstance(draft, Artifact):
    for part in range(5):
        time.sleep(0.1)
        left = filesystem(path)[0].glob(f"{path}/rows/*.parquet")
        draft.write("rows", pa.table({"id": [part]}), part + (len(left) if careless else 0))
    draft.finish(["rows"])
"""


class SmallJobs(jobs.Drill):
    """Jobs that write five files, each under a name that follows from its number, or, careless, from what is there."""

    how = "careful"

    def command(self, job: str, run: Path) -> list[str]:
        return [sys.executable, "-c", JOB, str(run / jobs.OUTPUTS[job][0]), job, self.how]


@pytest.fixture
def small(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(jobs, "JOBS", ("build", "mine"))
    monkeypatch.setattr(jobs, "OUTPUTS", {"build": ["data"], "mine": ["negatives"]})
    rows = {"build": "data", "mine": "negatives"}
    results = {job: lambda run, job=job: jobs.tables(run / rows[job], job) for job in rows}
    monkeypatch.setattr(jobs, "RESULTS", results)
    return SmallJobs(tmp_path, 3, "")


def test_killed_jobs_with_one_driver_and_with_two_end_alike(small, capsys):
    kills = jobs.kill_again_and_again(small, argparse.Namespace(kills=4, seed=1))
    assert [(kill.job, kill.drivers) for kill in kills] == [("build", 1), ("mine", 1), ("build", 2), ("mine", 2)]
    assert all(kill.equal for kill in kills), capsys.readouterr().out
    assert "undisturbed build" in capsys.readouterr().out and not list(small.folder.glob("run*"))


def test_a_job_that_repeats_what_a_killed_one_left_is_found(small, tmp_path: Path):
    """The driver is killed late, when files are there whose names the next one does not know."""
    small.how = "careless"
    seconds, expected = small.undisturbed(tmp_path / "undisturbed")
    process = small.start("build", tmp_path / "run")
    while len(list((tmp_path / "run" / "data" / "rows").glob("*.parquet"))) < 3:
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not small.finish(small.start("build", tmp_path / "run")) and seconds["build"] > 0.5
    assert jobs.RESULTS["build"](tmp_path / "run") != expected["build"]
    assert Artifact.open(str(tmp_path / "undisturbed" / "data"), "build").rows("rows") == 5


def test_a_job_that_fails_is_told_with_its_words(small, tmp_path: Path):
    process = small.start("build", Path("/proc/nowhere"))
    assert "ended with" in small.finish(process) and "cannot be written" in (tmp_path / "log").read_text()


def test_every_question_is_about_another_thing():
    rows = jobs.faq(300)
    assert len({row["question"] for row in rows}) == len({row["answer"] for row in rows}) == 300
    assert rows == jobs.faq(300)
