"""Negatives mined anew while a run goes on: rounds that end exactly, recorded versions, a kill between them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.mining import job
from pipeline.mining.config import MineConfig
from pipeline.storage.artifact import Artifact
from tests.support.loop import MemoryStore, make_exact_loop, make_parts
from tests.support.runs import make_data
from training.data.epoch import EpochSettings
from training.data.epoch_composer import compose_epoch
from training.data.epoch_reader import EpochFeed, InMemoryEpochs, epoch_path
from training.loop.trainer import Trainer
from training.run import job as fit
from training.run.config import Refresh
from training.run.lineage import explain
from training.run.rounds import _is_through, changed_share

ENCODER = {"layers": 1, "max_length": 32}
SETTINGS = {
    "encoder": ENCODER,
    "rows": ["mined"],
    "refresh": {"every": 1},
    "loop": {"batch_size": 16, "epochs": 2, "validations": 0, "log_every": 1, "learning_rate": 1e-3},
    "workers": 2,
}


def test_epochs_have_versions():
    one, two = Refresh(), Refresh(every=2)
    assert [one.version(epoch) for epoch in range(4)] == [0, 1, 2, 3]
    assert [two.version(epoch) for epoch in range(5)] == [0, 0, 1, 1, 2]
    assert [two.stop(version) for version in range(3)] == [2, 4, 6]


def test_a_round_ends_at_its_last_step_and_the_next_goes_on_exactly(tmp_path: Path):
    """Stopping after the first epoch and going on gives the weights of one run, bit for bit."""

    def run(folder: Path, *stops: int | None) -> tuple[list[int], dict[str, np.ndarray]]:
        folder.mkdir()
        kept: list[int] = []
        for stop in stops:
            loop = make_exact_loop(rows=32, epochs=2, batch_size=8)
            encoder, rows, config = make_parts(32, 8, batch_size=8)
            loop.feed = EpochFeed(
                InMemoryEpochs(rows, encoder.tokenize, EpochSettings(config.batch_size, config.seed, 12)), stop
            )
            store = MemoryStore(folder)
            Trainer(loop, store, None, "plan").run()
            kept += store.steps
        return kept, {name: tensor.numpy() for name, tensor in loop.module.state_dict().items()}

    steps, whole = run(tmp_path / "whole", None)
    assert steps == [8]
    parts, again = run(tmp_path / "parts", 1, 1, 2, None)
    assert parts == [4, 8], "a round whose end is reached takes no step and keeps nothing twice"
    for name, tensor in whole.items():
        np.testing.assert_array_equal(tensor, again[name], name)


def test_refresh_wants_mined_rows():
    with pytest.raises(UserError, match=r"refresh mines anew what rows: \[mined\] trains on"):
        validate(fit.TrainConfig, {"refresh": {}, "rows": ["pairs"]})


def test_a_round_that_stopped_early_is_not_through(tmp_path: Path):
    """Its later epochs were never composed; then nothing is mined for a round that does not come."""
    encoder, rows, config = make_parts(32, 8, batch_size=8)
    made = InMemoryEpochs(rows, encoder.tokenize, EpochSettings(config.batch_size, config.seed, 12))
    compose_epoch(made.rows, made.settings, 0, epoch_path(str(tmp_path), 0))
    assert not _is_through(str(tmp_path), 2, 3)
    assert [_is_through(str(tmp_path), 1, step) for step in (3, 4, 5)] == [False, True, True]


def prepare(run: Path) -> Path:
    make_data(run)
    mine = {"run": str(run), "encoder": ENCODER, "top_k": 8, "rule": {"num_negatives": 2, "absolute_margin": None}}
    job.run(validate(MineConfig, mine))
    recipe = run / "recipe.json"
    recipe.write_text(json.dumps({**SETTINGS, "run": str(run)}))
    return recipe


def killed(recipe: Path, run: Path) -> None:
    """Give the command and kill it with SIGKILL in its second round."""
    import ray

    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}  # as many threads a worker
    command = [sys.executable, "-m", "scripts.train", "--config", str(recipe)]
    with (run / "said.txt").open("wb") as said:
        driver = subprocess.Popen(command, stderr=said, env=environment)
        deadline = time.monotonic() + 240
        try:
            while not (run / "training" / "epochs" / "epoch-00001" / "manifest.json").exists():
                assert driver.poll() is None and time.monotonic() < deadline, (run / "said.txt").read_text()
                time.sleep(0.02)
            os.kill(driver.pid, signal.SIGKILL)
        finally:
            driver.kill()
            driver.wait()
    assert not (run / "training" / "manifest.json").exists()


@pytest.mark.ray
def test_negatives_are_mined_anew_and_a_kill_changes_nothing(ray_session: None, tmp_path: Path):
    whole, hit = tmp_path / "whole", tmp_path / "hit"
    weights = []
    for run in (whole, hit):
        recipe = prepare(run)
        if run is hit:
            killed(recipe, run)
        model = fit.run(validate(fit.TrainConfig, json.loads(recipe.read_text())))
        weights.append(load_file(Path(model) / "model.safetensors"))
    for name, tensor in weights[0].items():
        np.testing.assert_array_equal(tensor, weights[1][name], name)

    made = Artifact.open(str(hit / "training"), "train").manifest.notes["refreshed"]
    versions = [Artifact.open(str(hit / place), "mine") for place in ("negatives", "training/refresh/00001/negatives")]
    steps = Artifact.open(str(hit / "training/epochs/epoch-00000"), "epoch").manifest.notes["steps"]
    (one,) = made
    miners = [one.manifest.notes["encoder"]["weights"] for one in versions]
    assert miners[0] != miners[1], "each version is mined by other weights"
    assert one == {
        "version": 1,
        "step": steps,
        "fingerprint": versions[1].manifest.fingerprint,
        "changed": round(changed_share(*versions), 6),
    }
    assert one["changed"] > 0.02 and changed_share(versions[0], versions[0]) == 0.0
    for step, version in ((0, 0), (steps - 1, 0), (steps, 1)):
        found = explain(str(hit), step, 0)
        assert found["epoch"] == version
        assert found["versions"]["mine"]["fingerprint"] == versions[version].manifest.fingerprint
        assert found["versions"]["mine"]["encoder"]["weights"] == miners[version]
        assert {one["doc_id"] for one in found["negatives"]}
    notes = [json.loads(line).get("note", "") for line in (hit / "training/metrics.jsonl").read_text().splitlines()]
    assert sum("of the negatives are others than before" in note for note in notes) == 1
    assert not list((hit / "training" / "refresh").glob("*/model")), "the models that mined are removed"
