"""The examples run as they stand, outside the checkout and on a Ray session of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.storage.artifact import Artifact
from tests.support.checkout import ROOT

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
