"""The function that every worker of Ray Train runs: it sets up the encoder, the data and the step, and trains."""

import traceback
from typing import Any

from pipeline.core.config import validate
from pipeline.encoder.encoder import Encoder
from pipeline.storage.artifact import Artifact
from training.data.epoch_reader import EpochFeed, EpochWaiter
from training.loop.lora import attach_adapters
from training.loop.step import TrainStep
from training.loop.trainer import Trainer
from training.loop.validation import RetrievalValidation
from training.loop.validation_sample import open_validation
from training.run.config import ElasticWorkers, TrainConfig
from training.run.run_store import RayRunStore


def train_worker(settings: dict[str, Any]) -> None:
    """Run on every worker of Ray Train; an error carries its traceback as a note, which Ray would lose."""
    try:
        _train(settings)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        raise


def _train(settings: dict[str, Any]) -> None:
    import os

    import ray.train
    import torch
    from ray.train.collective import barrier

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(max(1, int(settings["cpus"])))
    config = validate(TrainConfig, settings["config"])
    paths = settings["paths"]
    data = Artifact.open(paths["data"], "build")
    checks = open_validation(paths["log"], data, config.validation) if config.loop.validations else None
    device = "cuda" if torch.cuda.is_available() and ray.train.get_context().get_world_size() else "cpu"
    dtype = config.lora.base_dtype if config.lora else "float32"  # adapters and what trains are float32 in any case
    encoder = Encoder.load(
        config.encoder.model_copy(update={"dtype": dtype}),
        device,
        to_train=not config.loop.compile,
        weights="cpu" if config.loop.parallel == "fsdp" else None,
    )
    if config.lora:
        attach_adapters(encoder, config.lora, config.loop.seed)
    barrier()  # loading takes some ranks longer than others; from here on they wait a limited time for one another
    feed = EpochFeed(
        EpochWaiter(paths["epochs"], mark_opened=ray.train.get_context().get_world_rank() == 0), settings["stop"]
    )
    by_slot = config.loop.dropout_by_slot or isinstance(config.workers, ElasticWorkers)
    loop = TrainStep(encoder, config.loss, feed, config.loop.model_copy(update={"dropout_by_slot": by_slot}), device)
    barrier()
    asynchronous = config.validation.asynchronous and checks is not None
    keeper = RayRunStore(paths["log"], config.checkpoints, config.trackers, measured=asynchronous)
    if isinstance(checks, RetrievalValidation) and checks.note:
        keeper.opening_notes.append(checks.note)
    try:
        Trainer(
            loop, keeper, checks, settings["plan"], settings["metric"], config.checkpoints, asynchronous=asynchronous
        ).run()
    finally:
        keeper.end()
