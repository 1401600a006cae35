"""How long a run trains and how often it validates where its recipe leaves that open."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from pipeline.core.schema import TABLES
from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact, Draft
from training.run.config import TrainConfig
from training.run.loop_defaults import MOST_PASSES, length, rows_seen, settle_loop
from training.run.progress_log import validation_share


def data(path: Path, pairs: int, documents: int) -> Artifact:
    """An artifact of build with so many training pairs, by its notes, and documents."""
    draft = artifact.begin(str(path / "data"), "build", {"rows": pairs}, {}, overwrite=True)
    assert isinstance(draft, Draft)
    corpus = pa.Table.from_pylist([{"doc_id": str(number)} for number in range(documents)], TABLES["corpus"])
    draft.write("corpus", corpus)
    draft.write("pairs", pa.Table.from_pylist([{"split": "train"}], TABLES["pairs"]))
    return draft.finish(["corpus", "pairs"], splits={"pairs": {"train": pairs, "dev": 7}})


def config(tmp_path: Path, **changed: Any) -> TrainConfig:
    return TrainConfig.model_validate({"run": str(tmp_path), "rows": ["pairs"], **changed})


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "steps"),
    [
        (20, 64, 10, 10),  # no row more than ten times; a batch holds all of them
        (100, 64, 8, 13),  # 80 * sqrt(100) = 800 rows
        (486, 64, 4, 28),
        (1_152, 64, 3, 54),  # three passes
        (2_000, 64, 3, 64),  # three passes would be more than 4,096 rows
        (12_282, 64, 1, 139),
        (1_000_000, 64, 1, 1_250),
        (1_000_000, 2_048, 1, 64),  # at least 64 batches
        (10_000, 2_048, 1, 5),  # which is one pass at most
    ],
)
def test_length_follows_the_rows(rows: int, batch_size: int, epochs: int, steps: int) -> None:
    assert length(rows, batch_size) == {"epochs": epochs, "max_steps": steps}


@limits(deadline=None)
@given(st.integers(4, 10**8), st.sampled_from([16, 64, 1_024]))
def test_more_rows_are_never_seen_less(rows: int, batch_size: int) -> None:
    fewer, more = (length(count, batch_size) for count in (rows, 2 * rows))
    assert more["max_steps"] * min(batch_size, 2 * rows) >= fewer["max_steps"] * min(batch_size, rows) - batch_size
    assert fewer["epochs"] * math.ceil(rows / batch_size) >= fewer["max_steps"], "the epochs have that many steps"
    assert 1 <= fewer["epochs"] <= MOST_PASSES


def test_a_recipe_that_leaves_all_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settled = settle_loop(config(tmp_path), data(tmp_path, 12_282, 50), None).loop
    assert (settled.epochs, settled.max_steps, settled.validations) == (1, 139, 4)
    line = capsys.readouterr().err
    assert "139 steps of 64 rows, 0.7 passes over 12,282 rows (loop.epochs decides otherwise)" in line
    assert "validates 4 times on the way, for at most 10% of training (loop.validations)" in line


def test_what_a_recipe_says_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact_of_build = data(tmp_path, 12_282, 50)
    for said in ({"epochs": 2, "validations": 1}, {"epochs": 1, "max_steps": 9, "validations": 0}):
        asked = config(tmp_path, loop=said)
        assert settle_loop(asked, artifact_of_build, None) == asked
    assert capsys.readouterr().err == ""


def test_steps_alone_decide_how_many_epochs_they_take(tmp_path: Path) -> None:
    settled = settle_loop(config(tmp_path, loop={"max_steps": 40}), data(tmp_path, 640, 5), None).loop
    assert (settled.epochs, settled.max_steps) == (4, 40)


def test_max_rows_are_the_rows(tmp_path: Path) -> None:
    settled = settle_loop(config(tmp_path, max_rows=486), data(tmp_path, 12_282, 5), None).loop
    assert (settled.epochs, settled.max_steps) == (4, 28)


def test_refresh_has_an_epoch_after_its_mining(tmp_path: Path) -> None:
    asked = config(tmp_path, rows="auto", refresh={"every": 2}).model_copy(update={"rows": ["pairs"]})
    settled = settle_loop(asked, data(tmp_path, 12_282, 5), None).loop
    assert (settled.epochs, settled.max_steps) == (3, None)


@pytest.mark.parametrize(
    ("pairs", "documents", "loop", "validations"),
    [
        (486, 400, {}, 0),  # 1,763 rows seen pay 528 texts, the first validation of 400 alone and no other
        (12_282, 5_000, {}, 1),  # 8,896 rows pay 2,668 texts: the first and one more of 1,000 documents
        (45_000, 5_000, {}, 4),
        (486, 400, {"patience": 1}, 4),  # stopping early needs validations
    ],
)
def test_validations_cost_a_tenth_at_most(
    tmp_path: Path, pairs: int, documents: int, loop: dict[str, Any], validations: int
) -> None:
    settled = settle_loop(config(tmp_path, loop=loop), data(tmp_path, pairs, documents), None).loop
    assert settled.validations == validations
    if not loop and validations:
        texts = (validations + 1) * min(documents, 1_000)
        assert texts <= 0.1 * 3 * rows_seen(settled, pairs), "forward passes, of which a step is worth three a text"


def test_share_of_validations_in_the_time_of_a_run() -> None:
    rows = [
        {"step": 0, "ndcg@10": 0.1, "validation_s": 2.0},
        {"step": 5, "steps": 10, "seconds_per_step": 3.0},
        {"step": 5, "ndcg@10": 0.2, "validation_s": 2.0},
        {"step": 10, "steps": 10, "seconds_per_step": 4.0},
    ]
    assert validation_share(rows) == pytest.approx(4 / (4 + 15 + 20))
    assert validation_share([{"step": 5, "steps": 10, "seconds_per_step": 3.0}]) == 0.0
