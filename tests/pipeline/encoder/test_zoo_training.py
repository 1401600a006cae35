"""Every layout of the zoo trains on one rank and on two, and what is saved is what Sentence Transformers loads."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.pipeline.encoder.test_zoo import assert_agrees, load
from tests.support import zoo
from tests.support.ranks import run_ranks
from training.data.rows import rows_from
from training.loop.step import LoopConfig, TrainStep, world
from training.losses.infonce import InfoNCE

pytest.importorskip("sentence_transformers")
STEPS = {"batch_size": 12, "epochs": 3, "validations": 0, "slots": 2, "dropout_by_slot": True}


def rows() -> pa.Table:
    text = [f"{zoo.TEXTS[i % 7]} number {i}" for i in range(36)]
    return pa.table(
        {
            "anchor_id": [f"q{i}" for i in range(12)],
            "anchor": text[:12],
            "positive_id": [f"p{i}" for i in range(12)],
            "positive": text[12:24],
            "negatives": [[{"doc_id": f"n{i}", "text": text[24 + i]}] for i in range(12)],
        }
    )


def train(paths: dict[str, str], folder: str) -> dict[str, list[float]]:
    """Three steps on every model, cached on every second one; rank 0 saves. Returns the losses."""
    losses: dict[str, list[float]] = {}
    for number, (layout, path) in enumerate(paths.items()):
        encoder = Encoder.load(EncoderConfig(model=path, dtype="float32", token_budget=300), "cpu", to_train=True)
        cache = {"cache_tokens": 300} if number % 2 else {}
        settings = LoopConfig(learning_rate=1e-3, precision="float32", **STEPS, **cache)
        step = TrainStep(encoder, InfoNCE(), rows_from(rows(), {}), settings)
        losses[layout] = [step.step(step.load_batch(ref), index)["loss"] for index, ref in step.plan(0)]
        if world()[0] == 0:
            encoder.save(Path(folder) / layout)
    return losses


class Trained(NamedTuple):
    """Losses by layout, and the folder of the saved models."""

    losses: dict[str, list[float]]
    folder: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    return {name: zoo.make(name, tmp_path_factory.mktemp("zoo")) for name in zoo.LAYOUTS}


@pytest.fixture(scope="module")
def alone(models, tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("alone")
    return Trained(train(models, str(folder)), folder)


@pytest.fixture(scope="module")
def together(models, tmp_path_factory) -> Trained:
    """One pair of ranks for all layouts."""
    folder = tmp_path_factory.mktemp("together")
    return Trained(run_ranks(2, train, models, str(folder))[0], folder)


@pytest.mark.parametrize("layout", zoo.LAYOUTS)
def test_a_layout_trains_and_is_saved_as_sentence_transformers_loads_it(models, alone, together, layout):
    base = load(models[layout])
    before, after = base.encode(zoo.TEXTS, "document"), []
    for losses, folder in (alone, together):
        trained = load(str(folder / layout))
        assert_agrees(trained, folder / layout)
        assert trained.prompts == base.prompts
        after.append(trained.encode(zoo.TEXTS, "document"))
        assert len(losses[layout]) == 3 and np.isfinite(losses[layout]).all()
        assert np.abs(before - after[-1]).max() > 1e-4, "training changed it"
    np.testing.assert_allclose(together.losses[layout], alone.losses[layout], rtol=1e-5)
    lengths = [np.linalg.norm(vectors, axis=1) for vectors in after]
    assert ((after[0] * after[1]).sum(axis=1) / lengths[0] / lengths[1]).min() > 0.99999, "two ranks train as one does"
