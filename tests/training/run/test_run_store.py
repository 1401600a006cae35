"""What a run keeps by Ray Train: whole checkpoints only, metrics and ledger cut back to where it goes on."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from training.loop.checkpoint import STATE, WEIGHTS, CheckpointConfig, Progress, TrainingState, find_damage
from training.loop.optimizer import Optimizer
from training.run import run_store
from training.run.jsonl_log import JsonlLog
from training.run.run_store import RayRunStore, _write_checkpoint


def make_state(step: int) -> TrainingState:
    module = torch.nn.Linear(2, 1)
    optimizer = Optimizer(module, torch.float32, weight_decay=0.0, max_grad_norm=1.0, max_bad_steps=0)
    return TrainingState(module, optimizer, Progress(step, "plan", world=2, total=20))


@pytest.fixture
def run(tmp_path: Path, monkeypatch):
    """A run at step 9 whose checkpoints are of steps 4 and 8; the keeper of its first rank."""
    import ray.train

    folders = [tmp_path / "checkpoint_4", tmp_path / "checkpoint_8"]
    for folder, step in zip(folders, (4, 8), strict=True):
        make_state(step).write(folder)
    local = SimpleNamespace(type_name="local")
    held = [SimpleNamespace(path=str(folder), filesystem=local) for folder in reversed(folders)]
    monkeypatch.setattr(run_store, "_committed", lambda: held)
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    JsonlLog(str(tmp_path / "metrics.jsonl")).replace(
        [{"step": step, "steps": 20, "loss": 1.0} for step in range(1, 10)]
    )
    for rank in (0, 1):
        JsonlLog(str(tmp_path / "ledger" / f"rank-{rank}.jsonl")).replace(
            [{"step": s, "rows": [s]} for s in range(1, 10)]
        )
    return tmp_path, RayRunStore(str(tmp_path), CheckpointConfig(ledger=True))


def test_the_newest_checkpoint_is_gone_on_from(run):
    place, mine = run
    assert mine.restore() == place / "checkpoint_8"
    before = Progress(8, "plan", world=2, total=20)
    mine.begin(Progress(8, "plan", world=1, total=20), before)
    mine.log({"step": 9, "steps": 20, "loss": 0.5})
    mine.record_rows(9, [9])
    rows = mine.lines.rows()
    assert [row["step"] for row in rows] == [*range(1, 9), 8, 9]
    assert rows[8]["note"] == "goes on after step 8 of 20 with 1 worker, 2 before"
    mine_taken, other = (JsonlLog(str(place / "ledger" / f"rank-{rank}.jsonl")).rows() for rank in (0, 1))
    assert [row["step"] for row in mine_taken] == [*range(1, 10)]
    assert [row["step"] for row in other] == [*range(1, 9)]


def test_a_damaged_newest_checkpoint_falls_back_in_one_line(run):
    place, mine = run
    (place / "checkpoint_8" / WEIGHTS).write_bytes(b"short")
    assert mine.restore() == place / "checkpoint_4"
    before = Progress(4, "plan", world=2, total=20)
    mine.begin(before, before)
    notes = [row["note"] for row in mine.lines.rows() if "note" in row]
    assert notes == [
        f"checkpoint_8: {WEIGHTS} is not as it was written; going back to the one before",
        "goes on after step 4 of 20 with 2 workers",
    ]


def test_a_run_without_a_checkpoint_begins_with_empty_metrics(run):
    place, mine = run
    for step in (4, 8):
        (place / f"checkpoint_{step}" / STATE).unlink()
    assert mine.restore() is None
    mine.begin(Progress(0, "plan"), None)
    notes = [row["note"] for row in mine.lines.rows()]
    assert len(notes) == 3 and notes[-1] == "no checkpoint is whole: the run begins anew"
    assert JsonlLog(str(place / "ledger" / "rank-1.jsonl")).rows() == []


def test_what_the_user_is_told_at_the_beginning_is_a_note(run):
    _, store = run
    store.opening_notes.append("validation: a sample")
    store.begin(Progress(), None)
    assert store.lines.rows() == [{"step": 0, "note": "validation: a sample"}]


def test_a_copy_of_a_checkpoint_on_a_store_is_gone_once_it_is_loaded(run, monkeypatch):
    place, store = run

    class OnAStore(SimpleNamespace):
        def to_directory(self, path):
            return shutil.copytree(place / "checkpoint_8", path, dirs_exist_ok=True)

    remote = OnAStore(path="bucket/checkpoint_8", filesystem=SimpleNamespace(type_name="s3"))
    monkeypatch.setattr(run_store, "_committed", lambda: [remote])
    monkeypatch.setattr(run_store.tempfile, "tempdir", str(place))
    copy = store.restore()
    assert copy.parent == place and copy.name.startswith("checkpoint-") and not find_damage(copy)
    store.begin(Progress(step=8), Progress(step=8))
    assert not copy.exists() and (place / "checkpoint_8").exists()


def test_rows_of_a_bad_batch_are_a_file(run):
    place, mine = run
    mine.save_bad_rows(7, [{"query": "how?", "query.weight": "nan"}])
    found = json.loads((place / "bad" / "step-000007-rank-0.json").read_text())
    assert found == {"step": 7, "rows": [{"query": "how?", "query.weight": "nan"}]}


def test_nothing_stays_of_a_checkpoint_that_could_not_be_written(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert find_damage(Path(_write_checkpoint(make_state(1)))) == ""

    def full(self, folder):
        (folder / WEIGHTS).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TrainingState, "write", full)
    with pytest.raises(OSError, match="No space left"):
        _write_checkpoint(make_state(1))
    assert len(list(tmp_path.iterdir())) == 1, "the whole one"


def test_validations_beside_training_come_into_the_metrics_once(run):
    place, mine = run
    mine.measured = True
    mine.begin(Progress(8, "plan", total=20), Progress(8, "plan", total=20))
    (place / "validations").mkdir()
    (place / "validations" / "step-000008.json").write_text(json.dumps({"step": 8, "ndcg@10": 0.5}))
    for step in (9, 10):
        mine.log({"step": step, "steps": 20, "loss": 0.5})
    assert [row["step"] for row in mine.lines.rows() if "ndcg@10" in row] == [8]
