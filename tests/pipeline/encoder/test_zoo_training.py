"""Layouts of the zoo train on one rank and on two, and what is saved is what Sentence Transformers loads."""

from pathlib import Path

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
        settings = LoopConfig(batch_size=12, epochs=3, learning_rate=1e-3, validations=0, precision="float32", **cache)
        step = TrainStep(encoder, InfoNCE(), rows_from(rows(), {}), settings)
        losses[layout] = [step.step(step.load_batch(ref), index)["loss"] for index, ref in step.plan(0)]
        if world()[0] == 0:
            encoder.save(Path(folder) / str(number))
    return losses


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    chosen = {*ONE_RANK, *TWO_RANKS}
    return {name: zoo.make(name, tmp_path_factory.mktemp("zoo")) for name in zoo.LAYOUTS if name in chosen}


ONE_RANK = ("bert, mean", "LaBSE", "binary weights", "model2vec", "adapter", "static", "EmbeddingGemma", "sentence-t5")
TWO_RANKS = ("Qwen3-Embedding", "layer norm", "router")


@pytest.mark.parametrize("ranks", [1, 2])
def test_layouts_train_and_are_saved_as_sentence_transformers_loads_them(models, ranks, tmp_path):
    models = models if ranks == 1 else {name: models[name] for name in TWO_RANKS}
    losses = train(models, str(tmp_path)) if ranks == 1 else run_ranks(ranks, train, models, str(tmp_path))[0]
    for number, layout in enumerate(models):
        assert len(losses[layout]) == 3 and np.isfinite(losses[layout]).all(), layout
        trained, path = load(str(tmp_path / str(number))), tmp_path / str(number)
        assert_agrees(trained, path)
        before, after = load(models[layout]).encode(zoo.TEXTS, "document"), trained.encode(zoo.TEXTS, "document")
        assert np.abs(before - after).max() > 1e-4, f"{layout}: training changed it"
        assert trained.prompts == load(models[layout]).prompts
