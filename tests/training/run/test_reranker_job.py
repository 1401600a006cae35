"""A reranker of one's own on real Ray Train: mined rows in, a directory out that ranks, mines and is found again."""

import json
from pathlib import Path

import numpy as np
import pytest

import scripts.tripletail as tripletail
from pipeline.core.errors import UserError
from pipeline.encoder.cross_encoder import CrossEncoderConfig, Reranker
from pipeline.storage.artifact import Artifact
from tests.support.mining import reranker_directory
from tests.support.runs import killed_worker, make_data
from training.run import reranker_job, saved_reranker

ENCODER = {"layers": 1, "max_length": 32}
LOOP = {"batch_size": 16, "epochs": 2, "validations": 2, "log_every": 1, "dropout": 0.1, "learning_rate": 2e-3}


def recipe(run: Path, base: str) -> dict:
    reranker = {"model": str(run / "reranker"), "dtype": "float32"}
    return {
        "run": str(run),
        "mine": {"encoder": ENCODER, "top_k": 8, "rule": {"num_negatives": 3}},
        "train_reranker": {
            "cross_encoder": {"model": base, "max_length": 48},
            "loop": LOOP,
            "workers": 2,
            "max_negatives": 2,
        },
        "evaluate": {
            "encoder": ENCODER,
            "models": {"base": ENCODER},
            "split": "dev",
            "systems": [{"type": "rerank", "of": "bm25", "top": 10, "cross_encoder": reranker}],
        },
    }


@pytest.mark.ray
def test_it_is_trained_on_mined_rows_and_reranks_everywhere(ray_session, tmp_path, minilm, capsys):
    make_data(tmp_path)
    base = reranker_directory(tmp_path / "base", minilm, 1)
    artifacts = tripletail.run(recipe(tmp_path, base))
    said = capsys.readouterr().err
    assert list(artifacts) == ["mine", "train_reranker", "evaluate"]
    notes = artifacts["train_reranker"].manifest.notes
    assert notes["model"] == str(tmp_path / "reranker") and notes["scores"]["moved"] > 0.01
    assert notes["scores"]["saved_apart"] < 1e-3 and "the saved directory gives the scores" in said
    assert all(0 <= row["ndcg@10"] <= 1 for row in notes["validation"])
    lines = [json.loads(line) for line in (tmp_path / "reranker-training" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, steps[-1]["steps"] + 1))
    assert steps[-1]["loss"] < steps[0]["loss"] and {line["workers"] for line in steps} == {2}
    assert "text-ranking" in (tmp_path / "reranker" / "README.md").read_text()

    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert any("rerank" in name for name in json.dumps(metrics["models"]).split('"'))
    settings = {"model": str(tmp_path / "reranker"), "dtype": "float32"}
    scored = tripletail.mine(
        run=str(tmp_path), out=str(tmp_path / "scored"), encoder=ENCODER, top_k=8, cross_encoder=settings
    )
    pair, row = scored.table("triplets").to_pylist()[0], scored.table("candidates").to_pylist()[0]
    expected = Reranker(CrossEncoderConfig(**settings), "cpu").score([pair["anchor"]], [pair["positive"]])
    assert row["positive_cross_score"] == pytest.approx(float(expected[0]), abs=1e-5)

    tripletail.embed(run=str(tmp_path), encoder={"model": minilm, **ENCODER})
    index = tripletail.index(run=str(tmp_path), index={"type": "exact"}, bm25=True)
    system = {"type": "rerank", "of": "bm25", "top": 5, "cross_encoder": settings}
    hits = tripletail.search(pair["anchor"], index, 5, system=system)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    by_document = {hit.doc_id: hit.score for hit in hits}
    assert by_document[pair["positive_id"]] == pytest.approx(float(expected[0]), abs=1e-5), (
        "the score that mining gives"
    )

    before = (tmp_path / "reranker" / "model.safetensors").stat().st_mtime_ns
    step = recipe(tmp_path, base)["train_reranker"]
    tripletail.train_reranker(run=str(tmp_path), **step)
    assert "already done" in capsys.readouterr().err
    assert (tmp_path / "reranker" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another setting of batch_negatives"):
        tripletail.train_reranker(run=str(tmp_path), **step, batch_negatives=1)


@pytest.mark.ray
def test_a_killed_worker_costs_steps_not_the_reranker(ray_session, tmp_path, minilm):
    """Pairs alone, which get documents of other rows; SIGKILL one worker: the same bits as a whole run."""
    base, found = reranker_directory(tmp_path / "base", minilm, 1), []
    for name in ("killed", "whole"):
        run = tmp_path / name
        make_data(run)
        settings = recipe(run, base)["train_reranker"] | {"run": str(run), "loss": {"type": "bce"}}
        config = reranker_job.RerankerConfig.model_validate(settings | {"checkpoints": {"steps": 2}})
        if name == "killed":
            with killed_worker(run, 3, "reranker-training"):
                reranker_job.run(config)
        else:
            reranker_job.run(config)
        scorer = Reranker(
            CrossEncoderConfig(model=str(run / "reranker"), activation="identity", dtype="float32"), "cpu"
        )
        found.append(scorer.score(["how do I mend hose2?", "pan"], ["The lamp is repaired", "with part pan3"]))
    np.testing.assert_array_equal(*found)


def test_a_directory_that_scores_otherwise_is_removed(tmp_path, minilm):
    from tests.support.rerankers import load

    data = make_data(tmp_path)
    model, other = load(tmp_path, minilm), load(tmp_path, minilm)
    check = saved_reranker.SavedRerankerCheck.begin(data, model)
    assert check.lefts[0] != check.lefts[-1] and len(check.base) == 64
    with pytest.raises(UserError, match="the trained reranker equals its base: not one of 64 scores"):
        check.require_change(model)
    other.transformer.classifier.bias.data += 0.5
    assert check.require_change(other)["moved"] == pytest.approx(0.5, abs=1e-5)
    model.save(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"saved: loaded anew, the saved reranker gives .* another score \(0\.5"):
        check.compare(other, str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()
    model.save(str(tmp_path / "saved"))
    assert check.compare(model, str(tmp_path / "saved"))["saved_apart"] < 1e-5


def test_an_unfinished_artifact_names_its_job(tmp_path):
    with pytest.raises(UserError, match="tripletail train_reranker"):
        Artifact.open(str(tmp_path / "reranker-training"), "train_reranker")
