"""The simulation of large sizes counts what the jobs do: files of a real build, requests of a store, the README."""

import collections
import posixpath
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.building import job
from pipeline.building.config import BuildConfig
from pipeline.evaluation.corpus import overlap
from pipeline.storage import files, shuffle
from pipeline.storage.files import open_parquet, write_json, write_parquet
from pipeline.storage.shards import Shard
from pipeline.storage.shuffle import Shuffle
from scripts.bench import scale
from scripts.bench.scaling import size as sizes
from scripts.bench.scaling.build import BuildPlan
from scripts.bench.scaling.size import Size, Staged, Step
from scripts.bench.scaling.train import train
from tests.support.checkout import ROOT
from tests.support.corpora import inline, write_jsonl
from tests.support.s3 import Store

__all__ = ["inline"]

Calls = dict[str, Counter[str]]  # of each step, by the folder of the file


class FileWatch:
    """Counts by step the files that a build stages, opens and writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step, self.watches = "plan", True
        self.opens: Calls = collections.defaultdict(Counter)
        self.writes: Calls = collections.defaultdict(Counter)
        call, open_arrow = shuffle._call, files.open_arrow

        def call_step(index: int, name: str, task: Any, marks: str) -> Any:
            self.step = name.split("-")[-1]
            try:
                return call(index, name, task, marks)
            finally:
                self.step = "finish"

        @contextmanager
        def counted(fs: Any, name: str) -> Iterator[Any]:
            self.opens[self.step][folder(name)] += 1
            with open_arrow(fs, name) as file:
                yield file

        monkeypatch.setattr(shuffle, "_call", call_step)
        monkeypatch.setattr(shuffle, "open_arrow", counted)
        monkeypatch.setattr(files, "open_arrow", counted)
        sys.addaudithook(self.audit)  # it cannot be taken off again

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of Python's own opening of files."""
        if not self.watches or event != "open" or not isinstance(arguments[0], str):
            return
        name, mode = arguments[0], arguments[1] or ""
        if "w" in mode and name.endswith(".partial"):
            self.writes[self.step][folder(name)] += 1
        elif mode.startswith("r") and name.endswith(".parquet"):
            self.opens[self.step]["footers"] += 1


def folder(name: str) -> str:
    return posixpath.basename(posixpath.dirname(name))


@pytest.mark.parametrize("blocks, buckets", [(20_000, 3), (9_000, 5)])
def test_a_real_build_opens_and_writes_the_files_that_the_simulation_counts(
    inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, buckets: int
):
    rows = [
        {
            "question": f"What is the meaning of word number {row}, and of its sibling {row * 7}?",
            "answer": f"The answer {row % 200} is a long text about thing {row % 200} and others",
        }
        for row in range(600)
    ]
    write_jsonl(tmp_path / "faq.jsonl", rows)
    source = {"type": "jsonl", "path": "faq.jsonl", "kind": "qa"}
    settings = {"block_bytes": blocks, "buckets": buckets, "run": str(tmp_path / "run"), "root": str(tmp_path)}
    config = BuildConfig.model_validate({**settings, "sources": [source]})
    count = len(job._blocks(config))
    assert count > 2
    watch = FileWatch(monkeypatch)
    job.run(config)
    watch.watches = False
    input_bytes = (tmp_path / "faq.jsonl").stat().st_size
    plan = BuildPlan(Size(rows=600, bytes=input_bytes, buckets=buckets), blocks=count)
    simulated = {step.name: step for step in plan.steps}
    for step in simulated.values():
        step.opens.pop("input", None)  # the source's own reading
    assert {name: dict(step.opens) for name, step in simulated.items() if step.opens} == {
        name: dict(counts) for name, counts in watch.opens.items() if name != "plan"
    }
    written = {name: dict(counts) for name, counts in watch.writes.items() if name not in ("plan", "finish")}
    for counts in written.values():
        counts.pop("data", None)  # the lease of the artifact
    assert {name: dict(step.files) for name, step in simulated.items() if step.files} == written


class RequestCounter(Store):
    """A store that counts its requests: those that read (GET, HEAD) and those that cost as a PUT does."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.writes = 0

    def answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer one request of WSGI."""
        is_listing = "list-type" in environ.get("QUERY_STRING", "")
        is_read = environ["REQUEST_METHOD"] in ("GET", "HEAD") and not is_listing
        self.reads, self.writes = self.reads + is_read, self.writes + (not is_read)
        return super().answer(environ, start_response)

    @contextmanager
    def expecting(self, step: Step) -> Iterator[None]:
        """Compare the requests of a block with those of a simulated step."""
        self.reads = self.writes = 0
        yield
        assert (self.reads, self.writes) == (step.reads, step.writes)


def test_requests_are_those_that_a_store_gets(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("s3fs", reason="needs the extra 's3'")
    store, ids = RequestCounter(), [str(number) for number in range(1000)]
    table = pa.table({"id": ids, "number": list(range(1000))})
    narrow = pa.schema([table.schema.field("id")])

    def step() -> Step:
        return Step("job", "step", 1)

    with store.serving(monkeypatch):
        staged = Shuffle(f"s3://{store.bucket}/staging", 4)
        staged.write("rows", "0", table, by="id")
        (writing := step()).write("rows", 1, 1000, 8)
        with store.expecting(writing):
            staged.write("rows", "1", table, by="id")
        (reading := step()).read(Staged("rows", 2, 1000, 8), buckets=4)
        with store.expecting(reading):
            staged.read("rows", 1, table.schema)
        (reading := step()).read(Staged("rows", 2, 1000, 8), buckets=4, columns=1)
        with store.expecting(reading):
            staged.read("rows", 1, narrow)
        (reading := step()).part(Staged("rows", 2, 1000, 8))
        with store.expecting(reading):
            staged.part("rows", "1", table.schema)
        marks = f"s3://{store.bucket}/marks"
        with store.expecting(step().mark()):
            shuffle._call(0, "step", lambda _: shuffle.Counts(), marks)
        (path, writing) = (f"s3://{store.bucket}/table/0.parquet", step())
        writing.write("table", 1, 1000, 8)
        with store.expecting(writing):
            write_parquet(path, table)
        (opening := step()).open("table", 1)
        with store.expecting(opening), open_parquet(path) as file:
            assert file.metadata.num_rows == 1000
        (opening := step()).open("table", 1, each=100.0)
        with store.expecting(opening), open_parquet(path) as file:
            file.read()
        write_json(f"s3://{store.bucket}/end.json", {})


def test_the_readme_shows_what_the_command_prints():
    assert scale.report(Size()) in (ROOT / "cluster" / "README.md").read_text(encoding="utf-8")


def test_what_breaks_is_found_at_the_smallest_size():
    small = Size(rows=1_000_000, bytes=10**9)
    assert scale.breaks(small) == []
    assert "Nothing does" in scale.report(small)
    (rows, name, step) = next(item for item in scale.breaks(Size()) if item[2].name == "flat")
    exact = 16 * sizes.GIB / (4 * 384 * 0.95)  # vectors of 384 numbers
    assert exact <= rows <= 1.02 * exact
    assert (name, step.job) == ("16 GiB on the head", "index")


def test_large_inputs_have_larger_buckets_before_they_have_more():
    counts = {gib: job.bucket_count(gib << 30) for gib in (0, 1, 256, 512, 2048, 4096)}
    assert counts == {0: 1, 1: 16, 256: 4096, 512: 4096, 2048: 4096, 4096: 8192}
    assert job.bucket_count(1 << 50, 7) == 7
    assert [job.block_bytes(gib << 30) >> 20 for gib in (1, 8, 1024)] == [32, 64, 128]


def test_more_epochs_and_more_rows_cost_more():
    once, twice = (sum(step.opened for step in train(Size(epochs=epochs), 1000)) for epochs in (1, 2))
    assert once < twice < 2 * once
    assert train(Size(rows=1000, bytes=10**6), 1) == []


@pytest.mark.parametrize("rows", [[3, 0, 5, 1], [0, 0, 4], [7]])
def test_chunks_look_only_at_the_files_that_hold_their_rows(rows: list[int]):
    class Watched(list[Shard]):
        looked = 0

        def __getitem__(self, index: Any) -> Any:
            self.looked += 1
            return super().__getitem__(index)

        def __iter__(self) -> Iterator[Shard]:
            self.looked += len(self)
            return super().__iter__()

    ends = [sum(rows[:file]) for file in range(len(rows) + 1)]
    shards = Watched(Shard(file, str(file), 0, count, 0, "") for file, count in enumerate(rows))
    numbered = [(str(file), row) for file, count in enumerate(rows) for row in range(count)]
    for first in range(ends[-1]):
        for last in range(first + 1, ends[-1] + 1):
            shards.looked = 0
            found = list(overlap(shards, ends, first, last))
            assert [(s.path, s.start + row) for s in found for row in range(s.rows)] == numbered[first:last]
            assert shards.looked == len(found)
