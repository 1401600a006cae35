"""`rows: auto`: what a run trains on by what was made, and what it says it leaves aside."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.core.schema import TABLES
from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact, Draft
from tests.support.runs import make_data, settings
from training.run.config import TrainConfig
from training.run.ray_trainer import NAME, prune_checkpoints
from training.run.row_kinds import resolve_rows


def rows(name: str, splits: str) -> pa.Table:
    """Rows of a table, "t" one of the training split and "d" one of dev."""
    names = {"t": "train", "d": "dev"}
    return pa.Table.from_pylist([{"split": names[letter]} for letter in splits], TABLES[name])


def make(path: Path, job: str, tables: dict[str, str], inputs: dict[str, str], **notes: object) -> Artifact:
    draft = artifact.begin(str(path), job, {"made": f"{tables} {notes}"}, inputs, overwrite=True)
    assert isinstance(draft, Draft)
    for name, splits in tables.items():
        draft.write(name, rows(name, splits))
    return draft.finish(list(tables), **notes)


def build(run: Path, **tables: str) -> Artifact:
    return make(run / "data", "build", tables, {})


def mine(run: Path, data: Artifact, splits: str, per_row: dict[str, int]) -> Artifact:
    inputs = {"data": data.manifest.fingerprint}
    return make(run / "negatives", "mine", {"triplets": splits}, inputs, negatives_per_row=per_row)


CASES = [  # tables of the build, mined rows with a negative, settings, kinds, end of the line
    ({"pairs": "tttd"}, 0, {}, ["pairs"], "rows auto: pairs 3"),
    ({"pairs": "tttd"}, 3, {}, ["mined"], "rows auto: mined 4"),
    ({"pairs": "tt", "triplets": "td"}, 0, {}, ["pairs", "triplets"], "rows auto: pairs 2, triplets 1"),
    ({"pairs": "tt", "triplets": "d"}, 0, {}, ["pairs"], "rows auto: pairs 2"),
    ({"triplets": "tt"}, 0, {}, ["triplets"], "rows auto: triplets 2"),
    ({"pairs": "tt", "triplets": "tt"}, 2, {}, ["mined", "triplets"], "rows auto: mined 4, triplets 2"),
    (
        *({"pairs": "tt", "labelled": "ttt"}, 0, {}, ["pairs"]),
        "rows auto: pairs 2; made but not used: labelled 3 (rows: [pairs, labelled] would)",
    ),
    (
        *({"pairs": "tt", "labelled": "ttt"}, 0, {"loss": {"type": "cosent"}}, ["labelled"]),
        "rows auto: labelled 3; made but not used: pairs 2 (rows: [labelled, pairs] would)",
    ),
    (
        *({"pairs": "tt"}, 2, {"rows": ["pairs"]}, ["pairs"]),
        "rows pairs 2; made but not used: mined 4 (rows: [pairs, mined] would)",
    ),
    ({"pairs": "tt"}, 0, {"rows": ["pairs"]}, ["pairs"], ""),
]


@pytest.mark.parametrize(("tables", "mined", "over", "kinds", "line"), CASES)
def test_what_was_made_is_used_or_said(tmp_path: Path, capsys, tables, mined, over, kinds, line):
    data = build(tmp_path, **tables)
    if mined:
        mine(tmp_path, data, "tttt", {"0": 4 - mined, "1": mined})
    resolved = resolve_rows(settings(tmp_path, **over), data)
    assert resolved.rows == resolved.kinds == kinds
    assert capsys.readouterr().err == (f"train: {line}\n" if line else "")


def test_mining_that_found_nothing_or_of_other_data_is_left_aside(tmp_path: Path, capsys):
    data = build(tmp_path, pairs="tt")
    mine(tmp_path, data, "tt", {"0": 2})
    assert resolve_rows(settings(tmp_path), data).rows == ["pairs"]
    mine(tmp_path, data, "tt", {"1": 2})
    other = build(tmp_path, pairs="ttt")
    assert resolve_rows(settings(tmp_path), other).rows == ["pairs"]
    assert "was mined from other data than" in capsys.readouterr().err
    with pytest.raises(UserError, match="no negatives were mined"):
        resolve_rows(settings(tmp_path, refresh={"every": 1}), other)


def test_refresh_goes_with_auto_and_not_with_named_rows_without_mined(tmp_path: Path):
    assert settings(tmp_path, refresh={"every": 1}).rows == "auto"
    with pytest.raises(UserError, match="add mined to rows"):
        settings(tmp_path, refresh={"every": 1}, rows=["pairs"])
    with pytest.raises(UserError, match="rows"):
        settings(tmp_path, rows="pears")


def test_a_run_is_the_same_by_name_and_by_auto(tmp_path: Path):
    data = make_data(tmp_path)
    auto, named = settings(tmp_path), settings(tmp_path, rows=["pairs"])
    assert resolve_rows(auto, data).result_settings() == resolve_rows(named, data).result_settings()


def test_checkpoints_of_a_finished_run_go_unless_they_are_kept(tmp_path: Path, capsys):
    def checkpoints(config: TrainConfig) -> Path:
        folder = Path(config.paths["log"]) / NAME / "checkpoint_1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").write_bytes(b"0" * 3_000_000)
        return folder

    kept = settings(tmp_path, checkpoints={"keep_finished": True})
    folder = checkpoints(kept)
    prune_checkpoints(kept)
    assert folder.exists()
    prune_checkpoints(settings(tmp_path))
    assert not folder.parent.exists() and folder.parents[1].exists()
    assert "removed the run's checkpoints, 3 MB (checkpoints.keep_finished keeps them)" in capsys.readouterr().err
    prune_checkpoints(settings(tmp_path))
    assert capsys.readouterr().err == ""
