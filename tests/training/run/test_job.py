"""The training job on real Ray Train: what it leaves, what it refuses, what a death costs."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.truncation import Truncation
from pipeline.storage import artifact
from pipeline.text.normalize import stable_id
from tests.support.checkout import ROOT
from tests.support.runs import SETTINGS, killed_worker, make_data, settings
from training.data.read_rows import load_rows
from training.loop.checkpoint import Progress, TrainingState, load_weights
from training.loop.step import LoopConfig, TrainStep, learning_rate_at
from training.loop.trainer import milestones
from training.loop.validation import ValidationConfig, sample_corpus
from training.loop.validation_sample import load_validation
from training.losses.infonce import InfoNCE
from training.run import job


def flags(run: Path, *more: str) -> list[str]:
    recipe = run / "recipe.json"
    recipe.write_text(json.dumps({**SETTINGS, "run": str(run)}))
    return [sys.executable, "-m", "scripts.train", "--config", str(recipe), *more]


@contextmanager
def exported_metrics() -> Iterator[set[tuple[str, str]]]:
    """Names and ranks of the gauges that Prometheus reads from the node while a training runs."""
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    seen: set[tuple[str, str]] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
                for line in answer.read().decode().splitlines():
                    if match := re.match(r"(ray_tripletail_train_\w+)\{(.*)\}", line):
                        rank = re.search(r'rank="(\d+)"', match[2])
                        seen.add((match[1], rank[1] if rank else ""))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        time.sleep(2.0)  # what the last step has set is read by the node once a second
        over.set()
        thread.join()


def dashboard_metrics() -> set[str]:
    """Names of the metrics that the dashboard of Grafana draws."""
    dashboard = json.loads((ROOT / "cluster" / "grafana.json").read_text())
    return {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}


@pytest.mark.ray
def test_a_run_leaves_a_model_that_sentence_transformers_loads(ray_session, tmp_path, capsys):
    peer = pytest.importorskip("sentence_transformers")
    make_data(tmp_path)
    with exported_metrics() as exported:
        model = job.run(settings(tmp_path))
    wanted = dashboard_metrics()
    assert wanted <= {name for name, _ in exported}, "what the dashboard draws is there"
    assert {("ray_tripletail_train_rank_memory_bytes", rank) for rank in ("0", "1")} <= exported, "of every worker"
    texts = ["how do I mend tent3?", "The lamp number 1 is repaired with part lamp1."]
    ours = Encoder.load(EncoderConfig(model=model, dtype="float32"), "cpu").encode(texts, "query")
    theirs = peer.SentenceTransformer(model, device="cpu").encode(texts, prompt_name="query")
    assert (ours * theirs).sum(axis=1).min() >= 0.99999
    base = Encoder.load(EncoderConfig(layers=1, max_length=32, dtype="float32"), "cpu").encode(texts, "query")
    assert (ours * base).sum(axis=1).max() < 0.99999, "training changed nothing"
    lines = [json.loads(line) for line in (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, trained[-1]["steps"] + 1))
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert [line["step"] for line in lines if "ndcg@10" in line] == [0, *sorted(milestones(trained[-1]["steps"], 3))]
    assert not (tmp_path / "training" / "ray").exists(), "checkpoints of a finished run are several times its model"
    card = Path(model, "README.md").read_text()
    assert "sentence-transformers" in card
    cut = json.loads((tmp_path / "training" / "manifest.json").read_text())["notes"]["truncation"]
    pairs = artifact.Artifact.open(str(tmp_path / "data"), "build").read("pairs")
    rows = pairs.filter(pc.equal(pairs["split"], "train"))
    for role, column in (("query", "anchor"), ("document", "positive")):
        encoder = Encoder.load(EncoderConfig(layers=1, max_length=32), "cpu")
        wanted = Truncation.measure(encoder, rows[column].to_pylist(), role)
        assert cut[role] == wanted.note() and f"- {wanted.sentence()}." in card

    before = Path(model, "model.safetensors").stat().st_mtime_ns
    job.run(settings(tmp_path))
    assert "already done" in capsys.readouterr().err
    assert Path(model, "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"another setting of loss.*--overwrite"):
        job.run(settings(tmp_path, loss={"temperature": 0.1}))


@pytest.mark.ray
def test_a_killed_worker_costs_steps_not_the_run(ray_session, tmp_path):
    """SIGKILL one worker after the first checkpoint: Ray Train restarts both from it and the result is the same."""
    make_data(tmp_path / "killed")
    make_data(tmp_path / "whole")
    with killed_worker(tmp_path / "killed", 3):
        model = job.run(settings(tmp_path / "killed"))
    whole = job.run(settings(tmp_path / "whole"))
    texts = ["how do I mend hose2?", "pan"]
    a, b = (Encoder.load(EncoderConfig(model=m, dtype="float32"), "cpu").encode(texts, "query") for m in (model, whole))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arrange", "arguments", "words"),
    [
        (lambda run: None, [], r"data: no such directory; run `tripletail build` first"),
        (lambda run: (run / "data").mkdir(), [], r"data: has no manifest.json"),
        (make_data, ["--rows", "mined"], r"negatives: no such directory; run `tripletail mine` first"),
        (make_data, ["--encoder.model", "./missing"], r"model ./missing: no such directory"),
        (make_data, ["--loss.temprature", "1"], r"unknown setting '--loss.temprature'"),
        (make_data, ["--loop.learning-rate", "0"], r"loop.learning_rate.*greater than 0"),
        (make_data, ["--workers", "64"], r"workers 64: the cluster has"),
        (lambda run: make_data(run, ("dev", "test")), [], r"no training rows in pairs"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(tmp_path, arrange, arguments, words):
    arrange(tmp_path)
    done = subprocess.run(flags(tmp_path, *arguments), capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert last.startswith("train: error: ")
    assert re.search(words, last)
    assert not (tmp_path / "model").exists()


def test_a_schema_mismatch_between_jobs_is_named(tmp_path):
    make_data(tmp_path)
    path = tmp_path / "data" / "pairs" / "part-00000.parquet"
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path).drop_columns(["positive"]), path)
    data = artifact.Artifact.open(str(tmp_path / "data"), "build")
    with pytest.raises(UserError, match=r"column 'positive' of table 'pairs' is missing; rerun the job that wrote it"):
        load_rows(["pairs"], data, None, None, None)


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(tmp_path):
    make_data(tmp_path)
    environment = {**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    environment.pop("RAY_ADDRESS", None)
    command = flags(tmp_path, "--loop.epochs", "40")  # 120 steps: they last until the signal arrives
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests in the background ignores it
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=hears)
    log = tmp_path / "training" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not (log.exists() and '"loss"' in log.read_text()):
            assert first.poll() is None and time.monotonic() < deadline, "the run never took a step"
            time.sleep(0.1)
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130, said
    assert "interrupted" in said
    assert not (tmp_path / "training" / "manifest.json").exists()
    assert not (tmp_path / "model").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "model" / "modules.json").exists()


def test_resume_in_one_process_is_exact(tmp_path):
    """Weights after 3 steps, a checkpoint, and the rest equal those of the uninterrupted run, bit for bit."""
    data = make_data(tmp_path)
    config = LoopConfig(batch_size=16, max_steps=5, validations=0, precision="float32")

    def fresh() -> TrainStep:
        encoder = Encoder.load(EncoderConfig(layers=1, max_length=32, dtype="float32"), "cpu")
        return TrainStep(encoder, InfoNCE(learn_temperature=True), load_rows(["pairs"], data, None, None, None), config)

    def train(loop: TrainStep, start: int, end: int) -> None:
        for step, batch in loop.plan(start):
            if step == end:
                return
            loop.step(loop.load_batch(batch), step)

    whole, first, second = fresh(), fresh(), fresh()
    train(whole, 0, 5)
    train(first, 0, 3)
    TrainingState(first.module, first.optimizer, Progress(3, "plan")).write(tmp_path / "checkpoint")
    found = TrainingState(second.module, second.optimizer, Progress(0, "plan")).read(tmp_path / "checkpoint")
    train(second, found.step, 5)
    for name, tensor in whole.module.state_dict().items():
        assert np.array_equal(tensor.numpy(), second.module.state_dict()[name].numpy()), name
    with pytest.raises(UserError, match="other data or settings"):
        TrainingState(second.module, second.optimizer, Progress(0, "other plan")).read(tmp_path / "checkpoint")


def test_a_share_of_the_base_is_the_mean_of_the_weights(tmp_path):
    data = make_data(tmp_path)
    encoder = Encoder.load(EncoderConfig(layers=1, max_length=32, dtype="float32"), "cpu")
    base = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    config = LoopConfig(batch_size=16, max_steps=2, validations=0, precision="float32")
    loop = TrainStep(encoder, InfoNCE(), load_rows(["pairs"], data, None, None, None), config)
    for step, batch in loop.plan(0):
        loop.step(loop.load_batch(batch), step)
    tuned = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    TrainingState(loop.module, loop.optimizer, Progress(2, "plan")).write(tmp_path / "checkpoint")
    encoder.load_state_dict(base)
    load_weights(loop.module, tmp_path / "checkpoint", alpha=0.25)
    moved = 0
    for name, tensor in encoder.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), (0.75 * base[name] + 0.25 * tuned[name]).numpy(), atol=1e-7)
        moved += int(not np.array_equal(tensor.numpy(), base[name].numpy()))
    assert moved > 10


def test_validation_sample_holds_every_relevant_document(tmp_path):
    data = make_data(tmp_path)
    found = load_validation(data, ValidationConfig(max_queries=5, max_documents=20))
    assert found is not None
    assert len(found.queries) == 5
    assert len(found.documents) == 20
    assert all(doc in found.documents for grades in found.judgments.values() for doc in grades)


def test_more_judged_documents_than_the_bound_are_sampled_by_query():
    """Thirty queries with eight right documents and two wrong ones each, and a bound of a hundred documents."""
    corpus = {f"d{n}": f"text {n}" for n in range(400)}
    queries = {f"q{n}": f"question {n}" for n in range(30)}
    judgments = {f"q{n}": {f"d{10 * n + m}": int(m < 8) for m in range(10)} | {"gone": 1} for n in range(30)}
    order = {name: stable_id(name) for name in (*queries, *corpus)}
    found = sample_corpus(queries, corpus, judgments, max_queries=20, max_documents=100, order=order)
    assert len(found.queries) == 20 and len(found.documents) == 100
    for query, grades in found.judgments.items():
        kept = {doc: grade for doc, grade in grades.items() if doc != "gone"}
        assert len(kept) == 5 and set(kept.values()) == {1} and kept.keys() <= found.documents.keys()
        assert "gone" in grades, "what is not in the corpus is missed still"
        assert kept.keys() <= judgments[query].keys()
    said = "validation: 100 of the 200 judged documents of 20 queries, of which 20 keep a relevant one"
    assert found.note == f"{said} (validation.max_documents)"
    few = sample_corpus(queries, corpus, judgments, max_queries=20, max_documents=12, order=order)
    assert len(few.documents) == 12 and len(few.queries) == 12, "a query whose turn does not come is left out"
    every = sample_corpus(queries, corpus, judgments, max_queries=20, max_documents=200, order=order)
    assert (
        not every.note and len(every.documents) == 200 and all(len(grades) == 11 for grades in every.judgments.values())
    )


def test_validation_does_not_rank_the_query_itself():
    queries = {"q1": "Is it safe?", "q2": "Only me"}
    corpus = {"d1": "IS IT safe?", "d2": "It is.", "q1": "Is it safe? With a body.", "x": "only me"}
    judgments = {"q1": {"d2": 1, "d1": 1}, "q2": {"x": 1}}
    found = sample_corpus(queries, corpus, judgments, max_queries=9, max_documents=10, order={})
    assert found.judgments == {"q1": {"d2": 1}}, "q2 has no relevant document but itself"
    assert list(found.documents) == ["d1", "d2", "q1", "x"]
    assert [array.tolist() for array in found.barred] == [[0, 0], [0, 2]]
    nearest_itself = Fixed({"Is it safe?": [1, 0], "IS IT safe?": [1, 0], "Is it safe? With a body.": [1, 0]})
    assert found(nearest_itself) == {"ndcg@10": 1.0, "mrr@10": 1.0}


class Fixed:
    """An encoder with given vectors; every other text lies between."""

    device, similarity = "cpu", "cosine"

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, texts, role):
        return np.array(
            [self.vectors.get(text, [0.6, 0.8] if "It is" in text else [0, 1]) for text in texts], np.float32
        )


def test_validation_beside_training_measures_the_checkpoint(tmp_path):
    import ray.train

    from training.run.async_validation import validate_checkpoint
    from training.run.run_store import async_validations

    data = make_data(tmp_path)
    config = settings(tmp_path, loop={**SETTINGS["loop"], "learning_rate": 0.01, "max_steps": 2})
    encoder = Encoder.load(EncoderConfig(layers=1, max_length=32, dtype="float32"), "cpu")
    loop = TrainStep(encoder, InfoNCE(), load_rows(["pairs"], data, None, None, None), config.loop)
    checks = load_validation(data, config.validation)
    before = checks(encoder)
    for step, batch in loop.plan(0):
        loop.step(loop.load_batch(batch), step)
    loop.state(Progress(2, "plan")).write(tmp_path / "checkpoint")
    checkpoint = ray.train.Checkpoint.from_directory(str(tmp_path / "checkpoint"))
    found = validate_checkpoint(checkpoint, config.model_dump(mode="json"), config.paths)
    assert found == pytest.approx(checks(encoder)) and found != pytest.approx(before)
    assert async_validations(config.paths["log"]) == [{"step": 2, **found}]


def test_the_rate_rises_then_falls():
    config = LoopConfig(learning_rate=1.0, warmup=0.2)
    rates = [learning_rate_at(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 21)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 20
    assert all(a > b for a, b in pairwise(rates[20:]))
    assert rates[-1] == pytest.approx(1 / 80)
