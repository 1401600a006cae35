"""A run of two sources, each with its loss, on real Ray Train; rows that no loss serves are refused first."""

import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.core.schema import TABLES
from pipeline.storage import artifact
from tests.support.runs import SETTINGS, TOPICS, make_data, settings
from training.run import job

LOSS = {"type": "by_source", "sources": {"test": {"type": "infonce"}, "sts": {"type": "cosent"}}, "weights": {"sts": 2}}


def make_two_sources(run: Path) -> None:
    """The pairs of `make_data`, and labelled pairs of another source."""
    data = make_data(run)
    tables = {name: data.read(name) for name in ("corpus", "queries", "qrels", "pairs")}
    draft = artifact.begin(str(run / "data"), "build", {"made": "of two sources"}, {}, overwrite=True)
    assert isinstance(draft, artifact.Draft)
    graded = [
        {
            "left_id": f"l-{one}-{n}",
            "left": f"a {one} with {n} parts",
            "right_id": f"r-{other}-{n}",
            "right": f"the {other} has {n} parts",
            "score": 1.0 if one == other else 0.1,
            "source": "sts",
            "split": "train",
        }
        for n in range(2)
        for one, other in [*zip(TOPICS, TOPICS, strict=True), *pairwise(TOPICS)]
    ]
    for name, table in tables.items():
        draft.write(name, table)
    draft.write("labelled", pa.Table.from_pylist(graded, TABLES["labelled"]))
    draft.finish([*tables, "labelled"])


@pytest.mark.ray
def test_each_source_is_trained_by_its_loss(ray_session, tmp_path):
    make_two_sources(tmp_path)
    over = {"loss": LOSS, "rows": ["pairs", "labelled"], "loop": SETTINGS["loop"] | {"batch_size": 12}}
    job.run(settings(tmp_path, **over))
    lines = [json.loads(line) for line in (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    asked, graded = ([line for line in steps if f"loss_{name}" in line] for name in ("test", "sts"))
    assert asked and graded and len(asked) + len(graded) == len(steps)
    assert all("accuracy" in line for line in asked) and not any("accuracy" in line for line in graded)
    assert all(line["loss"] == pytest.approx(2 * line["loss_sts"], rel=1e-5) for line in graded)
    assert Path(tmp_path / "model" / "modules.json").exists()


def test_a_source_without_a_loss_stops_the_job_at_once(tmp_path):
    make_two_sources(tmp_path)
    rows = {"rows": ["pairs", "labelled"]}
    with pytest.raises(UserError, match="no training row is of source 'shop'; there are sts, test"):
        job.run(settings(tmp_path, loss={**LOSS, "sources": {**LOSS["sources"], "shop": {"type": "infonce"}}}, **rows))
    with pytest.raises(UserError, match="rows of source 'sts' have no loss"):
        job.run(settings(tmp_path, loss={"type": "by_source", "sources": {"test": {"type": "infonce"}}}, **rows))
    assert not (tmp_path / "training").exists()
