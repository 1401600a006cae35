"""Small input needs no cluster: build, mining, embedding and evaluation leave the same without Ray as with it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.building import job as building
from pipeline.building.config import BuildConfig
from pipeline.core import ray_session as session
from pipeline.core.config import validate
from pipeline.embedding import job as embedding
from pipeline.evaluation import job as evaluation
from pipeline.evaluation.config import EvaluateConfig
from pipeline.mining import job as mining
from pipeline.mining.config import MineConfig
from tests.support.checkout import ROOT
from tests.support.corpora import sample_recipe, stay_in_process
from tests.support.mining import reranker_directory

ENCODER = {"layers": 1, "max_length": 24, "dtype": "float32"}


def run_all(run: Path, minilm: str, **over: Any) -> None:
    """Four jobs, into directories of the same names."""
    encoder = {**ENCODER, "model": minilm}
    building.run(BuildConfig.model_validate(sample_recipe(run=str(run), buckets=3, block_bytes=2_000)))
    rule = {"num_negatives": 2}
    settings = {"run": str(run), "encoder": encoder, "lexical": {}, "rule": rule, "rows_per_shard": 7, **over}
    mining.run(validate(MineConfig, settings))
    formats = [{"dtype": "int8"}]
    settings = {"run": str(run), "encoder": encoder, "rows_per_shard": 7, "extra_formats": formats, "threads": 1}
    embedding.run(validate(embedding.EmbedConfig, {**settings, "incremental": True, **over}))
    models = {"a": encoder, "b": {**encoder, "layers": 2}}
    reranker = reranker_directory(run.parent / "reranker", minilm, 1)
    systems = ["mix", {"type": "rerank", "cross_encoder": {"model": reranker, "dtype": "float32"}, "top": 5}]
    settings = {"run": str(run), "models": models, "baseline": "a", "systems": systems, "split": "test", **over}
    evaluation.run(validate(EvaluateConfig, settings))


def left(run: Path) -> dict[str, str]:
    """Digests of all files, but for manifests, plans and pages, which hold times and paths."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    kept = [path for path in files if path.suffix in (".parquet", ".trec", ".csv")]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.ray
def test_four_jobs_leave_the_same_files_without_ray(
    ray_session: None, minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_all(tmp_path / "ray", minilm, num_actors=1)
    stay_in_process(monkeypatch)
    run_all(tmp_path / "here", minilm)
    expected = left(tmp_path / "ray")
    assert {name.partition("/")[0] for name in expected} == {"data", "negatives", "vectors", "report"}
    assert left(tmp_path / "here") == expected
    scores = [json.loads((tmp_path / name / "report" / "metrics.json").read_text()) for name in ("ray", "here")]
    assert scores[0]["models"] == scores[1]["models"]


SMALL = """
import sys
from pathlib import Path
from pipeline.building.config import BuildConfig
from pipeline.building.job import run
from pipeline.core import ray_session
from tests.support.corpora import sample_recipe

run(BuildConfig.model_validate(sample_recipe(run=sys.argv[1])))
assert "ray" not in sys.modules and not ray_session.is_up()
"""


def test_a_small_build_does_not_even_import_ray(tmp_path: Path):
    subprocess.run([sys.executable, "-c", SMALL, str(tmp_path)], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("size", "limit", "required", "address", "starts"),
    [
        (9, 10, False, "", False),
        (10, 10, False, "", False),
        (11, 10, False, "", True),
        (9, 10, True, "", True),
        (9, 10, False, "127.0.0.1:6379", True),
    ],
)
def test_what_starts_a_session(monkeypatch, size, limit, required, address, starts):
    called = []
    monkeypatch.setattr(session, "start", lambda: called.append(True))
    monkeypatch.setenv("RAY_ADDRESS", address)
    session.start_for(size, limit, required=required)
    assert bool(called) == starts


@pytest.mark.parametrize(
    ("settings", "wants"),
    [({}, False), ({"num_actors": 1}, False), ({"num_actors": 2}, True), ({"gpus": 1}, True), ({"gpus": 0}, False)],
)
def test_settings_that_ask_for_a_cluster(settings, wants):
    assert validate(MineConfig, settings).wants_cluster == wants
    assert validate(embedding.EmbedConfig, {**settings, "max_actors": 2}).wants_cluster
