"""A teacher's vectors through the jobs: `embed` stores them, `train` learns from them, the student finds by them."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.embedding import job as embedding
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.model_directory import SAMPLE_MODEL
from pipeline.storage.artifact import Artifact
from tests.support.runs import make_data, settings
from training.run import job


def stored_by_teacher(run: Path) -> dict[str, str]:
    """Artifacts of the whole model's vectors of the queries and of the documents of a run."""
    paths = {"queries": "query", "documents": "document"}
    for name, role in paths.items():
        teacher = {"model": SAMPLE_MODEL, "max_length": 32, "dtype": "float32"}
        config = {"run": str(run), "role": role, "encoder": teacher, "out": str(run / f"teacher-{name}")}
        embedding.run(validate(embedding.EmbedConfig, config))
    return {name: str(run / f"teacher-{name}") for name in paths}


def encoded(texts: list[str], **config) -> np.ndarray:
    return Encoder.load(EncoderConfig(max_length=32, dtype="float32", **config), "cpu").encode(texts, "query")


@pytest.mark.ray
def test_a_student_of_one_layer_learns_the_vectors_that_the_embed_job_stored(ray_session, tmp_path: Path):
    make_data(tmp_path)
    guide = stored_by_teacher(tmp_path)
    loop = {"batch_size": 16, "epochs": 8, "learning_rate": 1e-3, "validations": 0, "log_every": 1, "dropout": 0.0}
    student = job.run(settings(tmp_path, loss={"type": "embedding_mse"}, guide=guide, loop=loop))
    lines = [json.loads(line) for line in (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "teacher_cosine" in line]
    assert steps[-1]["teacher_cosine"] > steps[0]["teacher_cosine"] and steps[-1]["taught"] == 1

    queries = Artifact.open(str(tmp_path / "data"), "build").read("queries").to_pylist()
    unseen = [row["text"] for row in queries if row["split"] == "dev"]
    teacher, before, after = encoded(unseen), encoded(unseen, layers=1), encoded(unseen, model=student)
    assert (after * teacher).sum(axis=1).mean() > (before * teacher).sum(axis=1).mean() + 0.05

    vectors = Artifact.open(guide["documents"], "embed").read("vectors")
    documents = np.array(vectors["vector"].to_pylist(), np.float32)
    topics = np.array([name[:-1] for name in vectors["id"].to_pylist()])
    right = np.array([row["query_id"].removeprefix("q-")[:-1] for row in queries if row["split"] == "dev"])
    found = [(topics[np.argmax(some @ documents.T, axis=1)] == right).mean() for some in (before, after)]
    assert found[1] > found[0], "the student searches the teacher's vectors better than it did untaught"


def test_a_loss_without_its_teacher_is_refused(tmp_path: Path):
    make_data(tmp_path)
    with pytest.raises(UserError, match=r"embedding_mse.*give guide: \{queries: \.\.\., documents: \.\.\.\}"):
        job.run(settings(tmp_path, loss={"type": "embedding_mse"}))
