"""Where metrics go: the file of lines, TensorBoard, MLflow, Weights & Biases."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from training.run import tracker
from training.run.jsonl_log import JsonlLog
from training.run.mlflow import MLflow
from training.run.tensorboard import TensorBoard
from training.run.tracker import RunState, Tracker, tell_trackers
from training.run.wandb import WeightsAndBiases

ROWS = [{"step": 1, "steps": 3, "loss": 2.0}, {"step": 2, "steps": 3, "loss": 1.5}, {"step": 2, "ndcg@10": 0.5}]


@pytest.mark.parametrize("place", ["{tmp}/log/metrics.jsonl", "memory://lines/metrics.jsonl"])
def test_lines_are_appended_and_cut_back(place: str, tmp_path: Path):
    path = place.format(tmp=tmp_path)
    writer = JsonlLog(path)
    writer.replace([])
    for row in ROWS:
        writer.append(row)
    writer.flush()
    assert JsonlLog(path).rows() == ROWS
    first, end = JsonlLog(path).read(0)
    assert first.count("\n") == 3
    again = JsonlLog(path)
    again.replace(ROWS[:1])
    again.append({"step": 9})
    again.flush()
    assert JsonlLog(path).rows() == [ROWS[0], {"step": 9}]
    assert JsonlLog(path).size() < end


def test_a_log_is_replaced_in_one_step(tmp_path: Path):
    """A worker that dies while it cuts a log back leaves the old one or the new one, never an empty file."""
    path = tmp_path / "rank-1.jsonl"
    writer = JsonlLog(str(path))
    writer.replace(ROWS)
    whole = path.read_bytes()
    with path.open("rb") as reader:
        writer.replace(ROWS[:1])
        assert reader.read() == whole
    assert writer.rows() == ROWS[:1] and [file.name for file in tmp_path.iterdir()] == ["rank-1.jsonl"]


def test_a_line_that_is_not_whole_waits(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    lines = JsonlLog(str(path))
    assert lines.read(0) == ('{"step": 1}\n', 12)
    with path.open("ab") as file:
        file.write(b'ss": 3}\n')
    assert lines.read(12) == ('{"step": 2, "loss": 3}\n', 35)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tensorboard is not installed; pip install 'tripletail\[trackers\]'"):
        TensorBoard().check()


def test_tensorboard_reads_what_was_written(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, rows in ((0, ROWS), (1, [{"step": 2, "steps": 3, "loss": 1.25}])):
        writer = TensorBoard().open(str(tmp_path), start)
        for row in rows:
            writer.log(row)
        writer.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [(1, 2.0), (2, 1.25)]


def test_mlflow_goes_on_with_the_same_run(tmp_path: Path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    uri = (tmp_path / "store").as_uri()
    settings = {"loss": {"type": "infonce", "tile": None}, "loop": {"batch_size": 64}, "rows": ["pairs", "mined"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    client, told = MlflowClient(uri), MLflow(uri=uri)
    told.end(str(tmp_path), RunState.FAILED, "")  # nothing was opened yet: there is nothing to end

    def the_run():
        (run,) = client.search_runs([client.get_experiment_by_name("tripletail").experiment_id])
        return run

    model = tmp_path / "model"
    model.mkdir()
    for name in ("README.md", "model.safetensors"):
        (model / name).write_text(name)
    for state, row in zip(RunState, (ROWS[0], ROWS[2], ROWS[1]), strict=True):
        writer = told.open(str(tmp_path), 0)
        writer.log(row)
        writer.close()
        assert the_run().info.status == "RUNNING"
        told.end(str(tmp_path), state, str(model))
        assert the_run().info.status == state
    assert the_run().data.metrics == {"loss": 1.5, "ndcg_at_10": 0.5}
    assert the_run().data.params == {"loss.type": "infonce", "loop.batch_size": "64", "rows": "['pairs', 'mined']"}
    assert the_run().data.tags["tripletail.log"] == str(tmp_path)

    def stored(folder: str) -> list[str]:
        return [item.path for item in client.list_artifacts(the_run().info.run_id, folder)]

    assert stored("training") == ["training/config.json"] and stored("model") == ["model/README.md"]
    told.model_copy(update={"artifacts": "model"}).end(str(tmp_path), RunState.FINISHED, str(model))
    assert stored("model") == ["model/README.md", "model/model.safetensors"]


def wandb_records(folder: Path) -> list[Any]:
    """Records of the offline runs of a folder, in order: LevelDB's log format, after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    records = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        content, at = path.read_bytes(), 7
        assert len(content) < 32_768, "one block"
        while at < len(content):
            length, kind = struct.unpack_from("<HB", content, at + 4)
            assert kind == 1, "a whole record"
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content[at + 7 : at + 7 + length])
            records.append(record)
            at += 7 + length
    return records


def test_weights_and_biases_offline(tmp_path: Path):
    wandb = pytest.importorskip("wandb")
    (tmp_path / "config.json").write_text(json.dumps({"loop": {"batch_size": 64}, "guide": None}))
    told = WeightsAndBiases(mode="offline", project="shop")
    told.end(str(tmp_path), RunState.FAILED, "")  # nothing was opened yet: there is nothing to end
    for rows in (ROWS[:1], ROWS[1:]):  # the second as after a restart
        writer = told.open(str(tmp_path), 0)
        for row in rows:
            writer.log(row)
        writer.close()
    told.end(str(tmp_path), RunState.KILLED, "")
    wandb.teardown()  # its process writes files after `finish` has returned; it ends with ours
    records = wandb_records(tmp_path)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 3, "none is written over another of the same second"
    runs = [record.run for record in records if record.HasField("run")]
    assert {run.project for run in runs} == {"shop"} and len({run.run_id for run in runs}) == 1
    config = {item.key: json.loads(item.value_json) for run in runs for item in run.config.update}
    assert config["loop.batch_size"] == "64" and config["tripletail.log"] == str(tmp_path) and "guide" not in config
    history = [record.history for record in records if record.HasField("history")]
    logged = [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in row.item} for row in history]
    assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in logged] == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.5},
        {"step": 2, "ndcg@10": 0.5},
    ]
    summaries = {i.key: i.value_json for r in records if r.HasField("summary") for i in r.summary.update}
    assert summaries["state"] == '"KILLED"'
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0, 0, 1]


def test_weights_and_biases_asks_for_a_key_before_a_run(tmp_path: Path, monkeypatch):
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match="no key of the server is known; set WANDB_API_KEY"):
        WeightsAndBiases().check()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    WeightsAndBiases().check()
    with pytest.raises(UserError, match="s3://bucket/x is no local directory"):
        WeightsAndBiases(path="s3://bucket/x").check()


def test_tensorboard_has_the_settings_and_the_end(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "config.json").write_text(json.dumps({"loop": {"batch_size": 64}, "guide": None}))
    TensorBoard().open(str(tmp_path), 0).close()
    TensorBoard().end(str(tmp_path), RunState.KILLED, "runs/a/model")
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    texts = {
        tag.split("/")[0]: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]
    }
    assert texts["state"] == "KILLED" and "| loop.batch_size | 64 |" in texts["settings"]
    assert "guide" not in texts["settings"]


class Recorder(Tracker):
    """Remembers how training ended."""

    broken: bool = False

    def open(self, log, step):
        raise NotImplementedError

    def end(self, log, state, model):
        if self.broken:
            raise ConnectionError("the server is gone")
        ENDS.append((log, state, model))


ENDS: list[tuple[str, str, str]] = []


def test_trackers_are_told_how_a_training_ended(capsys):
    ENDS.clear()
    with tell_trackers([Recorder(), Recorder(broken=True), Recorder()], "first", "m"):
        pass
    with pytest.raises(KeyError, match="a defect"), tell_trackers([Recorder(broken=True), Recorder()], "second", "m"):
        raise KeyError("a defect")
    assert [*[("first", "FINISHED", "m")] * 2, ("second", "FAILED", "m")] == ENDS
    assert capsys.readouterr().err.count("the server is gone") == 2, "said, and neither end is hidden by it"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, lambda: SystemExit(15)])
def test_an_interrupt_kills_a_run_and_is_no_failure(stop):
    ENDS.clear()
    with pytest.raises((KeyboardInterrupt, SystemExit)), tell_trackers([Recorder()], "log", "m"):
        raise stop()
    assert ENDS == [("log", "KILLED", "m")]
