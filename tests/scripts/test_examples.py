"""The examples run as they stand, outside the checkout and on a Ray session of their own."""

import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.core.config import validate
from pipeline.storage.artifact import Artifact
from scripts import tripletail
from tests.support.checkout import ROOT
from tests.support.corpora import inline
from training.losses.loss import local_batch
from training.run.config import TrainConfig

__all__ = ["inline"]

EXAMPLES = ROOT / "scripts" / "examples"


@pytest.mark.ray
def test_the_sample_shop_from_python(minilm: str, tmp_path: Path):
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), str(tmp_path / "run")]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=500)
    assert result.returncode == 0, result.stderr[-4000:]
    last = result.stdout.splitlines()
    assert last[-1] == "(1, 384)" and f"report: {tmp_path}/run/report/report.html" in last
    assert Artifact.open(str(tmp_path / "run" / "data")).pandas("pairs")["source"].isin(["faq", "questions"]).any()
    assert (tmp_path / "run" / "report" / "report.html").is_file() and (tmp_path / "run" / "model").is_dir()


def test_every_example_says_what_it_shows():
    for path in EXAMPLES.glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith('"""') or lines[:2][-1].startswith('"""'), path.name


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_a_source_of_ones_own_reads_its_lines(examples, inline, tmp_path: Path):
    lines = ["how do I mend a mug? => with glue", "no separator here", "is it open on Sunday? => yes, until noon"]
    (tmp_path / "faq.txt").write_text("\n".join(lines))
    source = {"type": "arrow_source:ArrowLines", "path": str(tmp_path / "faq.txt"), "name": "faq"}
    data = tripletail.build(run=str(tmp_path / "run"), sources=[source])
    pairs = {(row["anchor"], row["positive"], row["source"]) for row in data.table("pairs").to_pylist()}
    assert pairs == {
        ("how do I mend a mug?", "with glue", "faq"),
        ("is it open on Sunday?", "yes, until noon", "faq"),
    }
    assert data.manifest.dropped["unreadable_row"] == 1
    arrow_source = importlib.import_module("arrow_source")
    by_object = tripletail.build(
        run=str(tmp_path / "object"), sources=[arrow_source.ArrowLines(path=str(tmp_path / "faq.txt"), name="faq")]
    )
    assert by_object.manifest.fingerprint == data.manifest.fingerprint


def test_a_loss_of_ones_own_is_a_share_of_the_global_mean(examples):
    hardest = importlib.import_module("hardest_loss")
    config = validate(TrainConfig, {"loss": {"type": "hardest_loss:Hardest", "margin": 0.3}})
    assert isinstance(config.loss, hardest.Hardest)
    query, positive = torch.eye(3), torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    # The cosines are [1, .6, 0], [0, .8, 0] and [0, 0, 1]: no row violates the margin of .3, and the first one of .5.
    assert config.loss(local_batch(query, positive), {}).loss.item() == pytest.approx(0)
    wide = hardest.Hardest(margin=0.5)
    assert wide(local_batch(query, positive), {}).loss.item() == pytest.approx(0.1 / 3)
    same = local_batch(query, positive, positive_id=torch.tensor([7, 7, 8]))
    assert wide(same, {}).loss.item() == pytest.approx(0), "a document known to be right is no negative"
    halves = [dataclasses.replace(local_batch(query, positive), rows=rows) for rows in (slice(0, 1), slice(1, 3))]
    assert sum(wide(half, {}).loss.item() for half in halves) == pytest.approx(0.1 / 3)
