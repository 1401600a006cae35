"""Asynchronous validation: a Ray task validates a checkpoint while the workers go on training."""

from typing import Any

from pipeline.core.config import validate
from pipeline.encoder.encoder import Encoder
from pipeline.storage import files
from pipeline.storage.artifact import Artifact
from training.loop.checkpoint import load_weights, read_progress
from training.loop.embed_module import EmbedModule
from training.loop.lora import attach_adapters
from training.loop.validation_sample import open_validation
from training.run.config import TrainConfig
from training.run.run_store import VALIDATIONS, local_checkpoint, remove_copies


def validate_checkpoint(checkpoint: Any, config: dict[str, Any], paths: dict[str, str]) -> dict[str, float]:
    """Validate the model of a checkpoint on one machine; the figures are also written to the run's directory."""
    settings = validate(TrainConfig, config)
    folder = local_checkpoint(checkpoint)
    encoder = Encoder.load(settings.encoder.model_copy(update={"dtype": "float32"}), "auto")
    if settings.lora:
        attach_adapters(encoder, settings.lora, settings.loop.seed)
    load_weights(EmbedModule(encoder, settings.loss.learnable()), folder)
    step = read_progress(folder).step
    remove_copies()
    checks = open_validation(paths["log"], Artifact.open(paths["data"], "build"), settings.validation)
    metrics = checks(encoder) if checks else {}
    files.write_json(files.join(paths["log"], VALIDATIONS, f"step-{step:06d}.json"), {"step": step, **metrics})
    return metrics
