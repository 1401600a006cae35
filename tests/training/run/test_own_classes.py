"""A user's own loss and tracker, in a module beside the recipe and outside of this repository."""

import json
import sys
from pathlib import Path

import pytest

from pipeline.core import plugins
from pipeline.core.config import parse
from pipeline.core.errors import UserError
from tests.support.loop import MemoryStore, make_parts
from training.loop.step import TrainStep
from training.loop.trainer import Trainer
from training.losses.any_loss import check_rows
from training.run.config import TrainConfig

MODULE = '''
import json
from pathlib import Path

from pydantic import Field
from torch.nn import functional as F

from training.losses.loss import Loss, LossShare
from training.run.tracker import Tracker


class Attract(Loss):
    """Pulls each query to its document, harder where they are far from each other."""

    gamma: float = Field(2.0, gt=0)

    def __call__(self, batch, scalars):
        cosine = F.cosine_similarity(batch.query[batch.rows], batch.positive[batch.rows], dim=1)
        return LossShare(batch.mean((1 - cosine) ** self.gamma), {"cosine": cosine.detach().sum() / batch.size})


class JsonFile(Tracker):
    path: str

    def open(self, log, step):
        return Writer(Path(self.path))


class Writer:
    def __init__(self, path):
        self.path, self.rows = path, []

    def log(self, row):
        self.rows.append(row)

    def close(self):
        self.path.write_text(json.dumps(self.rows))
'''


class TrackedStore(MemoryStore):
    """A store that opens the trackers of a run, as the one of Ray Train does."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        super().__init__(folder)
        self.writers = [tracker.open(str(folder), 0) for tracker in config.trackers]

    def log(self, row):
        super().log(row)
        for writer in self.writers:
            writer.log(row)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_folders", [])
    (tmp_path / "my_training.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "my_training", raising=False)
    path = tmp_path / "recipe.json"
    settings = {
        "loss": {"type": "my_training:Attract", "gamma": 1.5},
        "trackers": [{"type": "my_training:JsonFile", "path": str(tmp_path / "rows.json")}, {"type": "tensorboard"}],
    }
    path.write_text(json.dumps({"train": settings}), encoding="utf-8")
    return path


def test_an_own_loss_trains_and_an_own_tracker_gets_the_metrics(recipe: Path, tmp_path: Path):
    config = parse(TrainConfig, "train", ["--config", str(recipe), "--loss", '{"gamma": 1.0}'])[0]
    assert config.model_dump(mode="json")["loss"] == {"type": "my_training:Attract", "gamma": 1.0}
    check_rows(config.loss, ["pairs"])
    encoder, rows, settings = make_parts(8, 8, epochs=4, learning_rate=1e-3, dropout=0.0, log_every=1)
    store = TrackedStore(tmp_path / "run", config.model_copy(update={"trackers": config.trackers[:1]}))
    Trainer(TrainStep(encoder, config.loss, rows, settings), store, None, "plan").run()
    for writer in store.writers:
        writer.close()
    tracked = json.loads((tmp_path / "rows.json").read_text())
    assert [row["step"] for row in tracked] == [1, 2, 3, 4]
    assert tracked[-1]["loss"] < tracked[0]["loss"] and tracked[-1]["cosine"] > tracked[0]["cosine"]


def test_what_a_run_writes_down_is_read_again(recipe: Path, tmp_path: Path):
    config = parse(TrainConfig, "train", ["--config", str(recipe)])[0]
    written = tmp_path / "config.json"
    written.write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    assert parse(TrainConfig, "train", ["--config", str(written)])[0] == config


def test_an_own_setting_is_checked(recipe: Path):
    with pytest.raises(UserError, match=r"setting 'loss.gamma' is -1: .*greater than 0"):
        parse(TrainConfig, "train", ["--config", str(recipe), "--loss", '{"gamma": -1}'])
