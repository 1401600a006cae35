"""A folder that every node sees, and one that a worker does not see as the driver does."""

from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.shared_paths import nodes_without
from scripts.tripletail.preflight.run_path import check_shared


@pytest.mark.ray
def test_a_folder_that_a_node_sees_otherwise_is_told(ray_session, tmp_path: Path, monkeypatch):
    assert nodes_without(str(tmp_path / "new")) == [] and list((tmp_path / "new").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    apart = "/proc/self/cwd/run"  # the working directory of whoever looks: a worker's is another
    assert len(nodes_without(apart)) == 1 and list((tmp_path / "run").iterdir()) == []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_shared(apart)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_shared(str(tmp_path / "new"))
    check_shared("s3://bucket/run")
    with pytest.raises(UserError, match=r"run: /proc/self/cwd/run is not the same folder on every node"):
        check_shared(apart)
