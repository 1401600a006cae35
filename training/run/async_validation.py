"""Validation beside training: a task of Ray measures a checkpoint while the workers train on."""

from typing import Any

from pipeline import files
from pipeline.artifact import Artifact
from pipeline.config import validate
from pipeline.encoder import Encoder
from training.checkpoint import load_weights, progress
from training.fit.config import TrainConfig
from training.keeper import BESIDE, local
from training.loop import Embed
from training.lora import attach
from training.rows import load_validation


def measure(checkpoint: Any, config: dict[str, Any], places: dict[str, str]) -> dict[str, float]:
    """Measure the model of a checkpoint, on one machine alone, and leave the figures in the run's directory too."""
    settings = validate(TrainConfig, config)
    folder = local(checkpoint)
    encoder = Encoder.load(settings.encoder.model_copy(update={"dtype": "float32"}), "auto")
    if settings.lora:
        attach(encoder, settings.lora, settings.loop.seed)
    load_weights(Embed(encoder, settings.loss.learned()), folder)
    checks = load_validation(Artifact.open(places["data"], "build"), settings.validation)
    found = checks(encoder) if checks else {}
    step = progress(folder).step
    files.write_json(files.join(places["log"], BESIDE, f"step-{step:06d}.json"), {"step": step, **found})
    return found
