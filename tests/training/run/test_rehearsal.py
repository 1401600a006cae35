"""The end of a training on the untrained model: what could not be saved stops the run before its first step."""

import time
from pathlib import Path

import pytest
import torch

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder
from pipeline.storage import disk_space
from training.run.config import TrainConfig
from training.run.rehearsal import rehearse_end, run_bytes


def prepared(run: Path, **given) -> tuple[TrainConfig, Encoder]:
    config = validate(TrainConfig, {"run": str(run), "encoder": {"max_length": 64}, **given})
    return config, Encoder.load(config.encoder.model_copy(update={"dtype": "float32"}), "cpu")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"encoder": {"layers": 2, "max_length": 32}},
        {"lora": {"rank": 2}},
        {"encoder": {"revision": "v2", "max_length": 64}},
    ],
)
def test_a_model_that_can_be_saved_is_left_as_it_was(given, tmp_path: Path, minilm):
    config, base = prepared(tmp_path, **given)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    begun = time.monotonic()
    rehearse_end(config, base)
    assert time.monotonic() - begun < 30
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_saved_stops_the_run(tmp_path: Path, monkeypatch):
    """As families do whose configuration counts what it lists for all of their layers."""
    config, base = prepared(tmp_path, encoder={"layers": 1})

    def refuse(*given, **more):
        raise ValueError("`num_hidden_layers` (1) must be equal to the number of layer types (6)")

    monkeypatch.setattr(base.transformer, "save_pretrained", refuse)
    with pytest.raises(UserError, match=r"cannot be saved, with encoder\.layers and loaded again.*layer types"):
        rehearse_end(config, base)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_another_one_when_loaded_stops_the_run(tmp_path: Path, monkeypatch):
    config, base = prepared(tmp_path)
    save = Encoder.save

    def spoil(self, *given, **more):
        with torch.no_grad():
            table = self.transformer.embeddings.word_embeddings.weight
            kept = table.clone()
            table.copy_(table.flip(0))
            save(self, *given, **more)
            table.copy_(kept)

    monkeypatch.setattr(Encoder, "save", spoil)
    with pytest.raises(UserError, match=r"is another one after it was saved and loaded \(cosine"):
        rehearse_end(config, base)


def test_a_disk_without_room_for_the_checkpoints_stops_the_run(tmp_path: Path, monkeypatch):
    config, base = prepared(tmp_path)
    count = sum(value.numel() for value in base.parameters())
    assert run_bytes(config, base) == 4 * count * (1 + 3 * 3)
    usage = disk_space.shutil.disk_usage("/")._replace(free=100 << 20)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"the model and 3 checkpoints need about .* and 100\.0 MiB are free there"):
        rehearse_end(config, base)
    lora, base = prepared(tmp_path, lora={"rank": 2})
    assert run_bytes(lora, base) < 1.3 * 4 * count


def test_a_place_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path):
    (tmp_path / "file").touch()
    config, base = prepared(tmp_path, out=str(tmp_path / "file" / "model"))
    with pytest.raises(OSError):
        rehearse_end(config, base)
