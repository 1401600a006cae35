"""Tasks by Ray and in this process: the same values, errors in one line, and no more at a time than allowed."""

import time
from pathlib import Path

import pytest

from pipeline.core import tasks
from pipeline.core.errors import UserError
from tests.support.corpora import stay_in_process


def work(folder: str, number: int, shared: list[int]) -> int:
    (Path(folder) / f"{time.monotonic_ns()}+").touch()
    time.sleep(0.1)
    if number == 99:
        raise UserError("number 99: has no place; give another")
    (Path(folder) / f"{time.monotonic_ns()}-").touch()
    return number + shared[0]


def add(left: int, right: int) -> int:
    return left + right


def both_ways(left: int, right: int) -> tuple[int, int]:
    return divmod(left, right)


def most_at_once(folder: Path) -> int:
    running = most = 0
    for name in sorted(path.name for path in folder.iterdir()):
        running += 1 if name.endswith("+") else -1
        most = max(most, running)
    return most


def run(folder: Path, numbers: list[int], at_once: int | None = None) -> list[int]:
    shared = tasks.put([1000])
    return sorted(tasks.results(work, [(str(folder), number, shared) for number in numbers], at_once))


@pytest.mark.ray
def test_tasks_of_ray_are_bounded_and_say_what_is_wrong(ray_session: None, tmp_path: Path):
    assert run(tmp_path, list(range(8)), at_once=2) == list(range(1000, 1008))
    assert most_at_once(tmp_path) <= 2
    with pytest.raises(UserError, match=r"^number 99: has no place; give another$"):
        run(tmp_path, [1, 99, 2])
    assert tasks.get(tasks.submit(add, 3, tasks.put(4))) == 7
    first, second = tasks.submit(both_ways, 7, 2, returns=2)
    assert (tasks.get(first), tasks.get(second)) == (3, 1)


def test_tasks_in_this_process_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stay_in_process(monkeypatch)
    assert run(tmp_path, [3, 1], at_once=2) == [1001, 1003]
    assert most_at_once(tmp_path) == 1
    with pytest.raises(UserError, match="number 99"):
        run(tmp_path, [99, 2])
    first, second = tasks.submit(both_ways, tasks.put(7), 2, returns=2)
    assert (tasks.get(first), tasks.get(second)) == (3, 1)
