"""The run of steps: where it goes on, when it stops, what it sets aside; the number of workers changes nothing."""

import json
import math
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import UserError
from tests.support.loop import MemoryStore, make_exact_loop, make_parts
from tests.support.ranks import run_ranks
from training.loop import checkpoint
from training.loop.checkpoint import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    CheckpointConfig,
    Progress,
    TrainingState,
    find_damage,
)
from training.loop.step import LoopConfig, TrainStep
from training.loop.trainer import Trainer, record_validation
from training.losses.infonce import InfoNCE


def figures(*values: float):
    """A validation that gives one figure after the other; the first is the base's."""
    left = iter(values)
    return lambda encoder: {"ndcg@10": next(left)}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    loop = make_exact_loop(max_steps=1)
    folder = tmp_path_factory.mktemp("whole")
    loop.state(Progress(1, "plan")).write(folder)
    return folder


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]), f"{WEIGHTS} is not as it was written"),
        (lambda f: flip(f / OPTIMIZER), f"{OPTIMIZER} is not as it was written"),
        (lambda f: (f / OPTIMIZER).unlink(), f"{OPTIMIZER} is missing"),
        (lambda f: (f / STATE).unlink(), f"has no {STATE}: it was not written to the end"),
        (lambda f: (f / STATE).write_text("{"), f"{STATE} is not readable"),
    ],
)
def test_a_damaged_checkpoint_is_known_and_not_read(written: Path, tmp_path: Path, spoil, words):
    folder = tmp_path / "spoilt"
    shutil.copytree(written, folder)
    assert find_damage(folder) == ""
    spoil(folder)
    assert find_damage(folder) == words
    with pytest.raises(UserError, match="spoilt: "):
        make_exact_loop().state(Progress(0, "plan")).read(folder)


def look(folder: str) -> dict[str, list[str]]:
    """What this rank says of a checkpoint, twice, and the files that it read for it."""
    read: list[str] = []
    whole = checkpoint._hash.__wrapped__
    checkpoint._hash = lru_cache(lambda path, *mark: read.append(path.name) or whole(path, *mark))
    return {"said": [checkpoint.find_damage_together(Path(folder)) for _ in range(2)], "read": read}


@pytest.mark.parametrize("spoilt", [None, WEIGHTS, OPTIMIZER])
def test_each_rank_reads_its_share_of_a_checkpoint_and_all_say_the_same(written: Path, tmp_path: Path, spoilt):
    folder = shutil.copytree(written, tmp_path / "copy")
    if spoilt:
        flip(folder / spoilt)
    ranks = run_ranks(2, look, str(folder))
    words = f"{spoilt} is not as it was written" if spoilt else ""
    assert [rank["said"] for rank in ranks] == [[words, words]] * 2
    assert sorted(name for rank in ranks for name in rank["read"]) == [OPTIMIZER, WEIGHTS], "each file once"
    assert all(len(rank["read"]) == 1 for rank in ranks)


def flip(path: Path) -> None:
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(found)


def test_what_a_checkpoint_was_made_with_is_named():
    mine = Progress(0, "plan", batch_size=64, total=100, seed=13)
    assert mine.differences(replace(mine, step=50, world=4, samples=999)) == ""
    assert mine.differences(replace(mine, plan="other")) == "data or settings"
    found = mine.differences(replace(mine, plan="other", batch_size=32, seed=7))
    assert found == "data or settings (batch_size was 32, now 64, seed was 7, now 13)"


def test_a_checkpoint_says_where_the_run_stood(tmp_path: Path):
    Trainer(make_exact_loop(max_steps=3, epochs=3, validations=0), MemoryStore(tmp_path), None, "plan").run()
    state = json.loads((tmp_path / "3" / STATE).read_text())
    assert state["progress"] == {
        "step": 3,
        "plan": "plan",
        "samples": 24,
        "world": 1,
        "batch_size": 8,
        "total": 3,
        "seed": 13,
        "best": None,
        "stale": 0,
    }
    assert set(state["files"]) == {WEIGHTS, OPTIMIZER}


def test_patience_ends_a_run_and_a_resumed_one_knows_it(tmp_path: Path):
    config = {"max_steps": 8, "epochs": 8, "validations": 8, "patience": 2}
    store = MemoryStore(tmp_path)
    Trainer(make_exact_loop(**config), store, figures(0.9, 0.1, 0.3, 0.2, 0.3, 0.9), "plan", "ndcg@10").run()
    assert store.steps == [1, 2, 3, 4], "two validations after the best one, the base's figure apart"
    assert store.notes == ["stopped early: 2 validations no better than 0.3000"]
    again = MemoryStore(tmp_path)
    Trainer(make_exact_loop(**config), again, None, "plan", "ndcg@10").run()
    assert again.steps == []


def test_a_gain_must_be_big_enough():
    config = LoopConfig(min_delta=0.05)
    first = record_validation(Progress(), 0.5, config)
    assert (first.best, first.stale) == (0.5, 0)
    second = record_validation(first, 0.54, config)
    assert (second.best, second.stale) == (0.5, 1)
    assert record_validation(second, 0.56, config) == replace(first, best=0.56)
    assert record_validation(first, math.nan, config).stale == 1


def test_a_run_that_goes_on_is_the_run_that_never_stopped(tmp_path: Path):
    """Killed after step 3 with the checkpoint of step 2: steps 3 to 6 are taken (again), with the same weights."""
    config = {"max_steps": 6, "epochs": 6, "validations": 0, "dropout": 0.1}
    whole = make_exact_loop(**config)
    Trainer(whole, MemoryStore(tmp_path / "whole"), None, "plan", checkpoints=CheckpointConfig(steps=2)).run()
    for folder in ("4", "6"):
        (tmp_path / "whole" / folder).rename(tmp_path / folder)
    second = make_exact_loop(**config)
    store = MemoryStore(tmp_path / "whole")
    Trainer(second, store, None, "plan", checkpoints=CheckpointConfig(steps=2)).run()
    assert store.steps == [4, 6]
    assert [row["step"] for row in store.rows] == [5, 6]
    for name, value in whole.module.named_parameters():
        assert torch.equal(value, dict(second.module.named_parameters())[name]), name


def test_a_notice_that_a_node_goes_makes_a_checkpoint(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("training.loop.trainer.PREEMPTION_CHECK_S", 0.0)
    store = MemoryStore(tmp_path)
    store.preempt = True
    Trainer(make_exact_loop(max_steps=3, epochs=3, validations=0), store, None, "plan").run()
    assert store.steps == [1, 3]
    assert store.notes == ["a node is about to be preempted; a checkpoint is saved first"]


def test_a_batch_that_is_not_finite_is_skipped_and_kept(tmp_path: Path):
    loop = make_exact_loop(poison=5, max_steps=2, epochs=2, validations=0, log_every=1, max_bad_steps=2)
    before = {name: value.clone() for name, value in loop.module.named_parameters()}
    store = MemoryStore(tmp_path)
    Trainer(loop, store, None, "plan").run()
    assert all(torch.equal(value, before[name]) for name, value in loop.module.named_parameters())
    assert [row["bad_steps"] for row in store.rows] == [1, 2]
    assert store.rows[0]["loss"] is None, "JSON has no number for it"
    assert "the gradient of step 0 is not finite" in store.notes[0]
    guilty = [row for row in store.bad_rows if row["query.weight"] == "nan"]
    assert len(store.bad_rows) == 16 and len(guilty) == 2
    rows = make_parts(8, 8)[1]
    assert guilty[0]["query_id"] == int(rows.query_id[5])
    assert all(number in guilty[0]["query"] for number in rows.anchors[5].split()[:3])
    resumed = Trainer(
        make_exact_loop(poison=5, max_steps=3, epochs=3, validations=0, max_bad_steps=2), store, None, "plan"
    )
    resumed.progress = replace(resumed.progress, total=2)
    with pytest.raises(UserError, match="3 times now"):
        resumed.run()


def segment(folder: str, start: int, stop: int) -> dict[str, Any]:
    """Steps `start` to `stop` on these ranks from the checkpoint of `start`; what the next step would do."""
    encoder, made, settings = make_parts(24, 8, dropout=0.0, max_steps=8, epochs=8, batch_size=12, learning_rate=1e-3)
    loop = TrainStep(encoder.double(), InfoNCE(), made, settings)
    progress = Progress(start, "plan")
    if start:
        progress = TrainingState(loop.module, loop.optimizer, Progress(0, "plan")).read(Path(folder) / str(start))
    seen = []
    for step, batch in loop.plan(progress.step):
        work = loop.load_batch(batch)
        if step == stop:
            break
        loop.step(work, step)
        seen.append(sorted(loop.feed.rows(batch)))
    if loop.rank == 0:
        loop.state(Progress(stop, "plan")).write(Path(folder) / str(stop))
    loop.module.train()
    loop.backward(work, stop)
    grads = torch.cat([p.grad.reshape(-1) for p in loop.module.parameters() if p.grad is not None])
    return {"gradient": grads, "batches": seen}


def test_two_one_two_workers_are_one_run(tmp_path: Path):
    """After each change of workers: the same batches, and the gradient that the other number has at its next step."""
    folder = str(tmp_path)
    first = run_ranks(2, segment, folder, 0, 2)[0]
    second = segment(folder, 2, 4)
    third = run_ranks(2, segment, folder, 4, 6)[0]
    fourth = segment(folder, 6, 6)
    whole = make_exact_loop(24, max_steps=8, epochs=8, batch_size=12, validations=0)
    wanted = [sorted(whole.feed.rows(ref)) for _, ref in whole.plan(0)][:6]
    assert [*first["batches"], *second["batches"], *third["batches"]] == wanted
    again = segment(folder, 2, 2)
    for here, there in ((first, again), (third, fourth)):
        apart = (here["gradient"] - there["gradient"]).norm() / there["gradient"].norm()
        assert apart <= 1e-6, f"{apart:.1e}"
