"""A pool of actors whose calls overlap, as on a GPU."""

import threading
from pathlib import Path

import pytest

from pipeline.core.actor_pool import Pool, Worker, stream
from pipeline.embedding.job import run
from tests.pipeline.embedding.test_job import settings, write_rows


class Together(Worker):
    """Its calls wait for one another: alone none would return."""

    overlaps = True

    def __init__(self) -> None:
        self.all = threading.Barrier(3, timeout=60)

    def work(self, item: int) -> int:
        self.all.wait()
        return item


@pytest.mark.ray
def test_calls_of_an_actor_overlap_as_on_a_gpu_and_the_vectors_are_the_same(
    tmp_path: Path, minilm: str, ray_session: None, monkeypatch: pytest.MonkeyPatch
):
    def many(size: int, calls: int = 3) -> Pool:
        return Pool(size, 0.5, 0.0, 1, size, calls=calls)  # one thread each: more may add in another order

    assert sorted(stream(range(9), Together, {}, many(1))) == list(range(9))
    path = write_rows(tmp_path / "in.parquet", 200)
    alone = run(settings(tmp_path / "alone", input=str(path), rows_per_shard=16, num_actors=1, threads=1))
    monkeypatch.setattr(Pool, "plan", lambda *_, **__: many(1))
    overlapped = run(settings(tmp_path / "overlapped", input=str(path), rows_per_shard=16, num_actors=1))
    assert overlapped.read("vectors").equals(alone.read("vectors"))
