"""The function that every worker of Ray Train runs: it sets up the model, the data and the step, and trains."""

import traceback
from collections.abc import Callable
from typing import Any

from pipeline.core.config import validate
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.pair_classifier import PairClassifier
from pipeline.storage.artifact import Artifact
from training.data.epoch_reader import EpochFeed, EpochWaiter
from training.loop.lora import attach_adapters
from training.loop.reranker_step import RerankerStep
from training.loop.reranking_validation import reranking_validation
from training.loop.step import LoopConfig, TrainStep
from training.loop.trainer import Trainer
from training.loop.validation import RetrievalValidation
from training.loop.validation_sample import open_validation
from training.run.config import ElasticWorkers, TrainConfig, TrainingConfig
from training.run.reranker_config import RerankerConfig
from training.run.run_store import RayRunStore

MakeStep = Callable[[EpochFeed, LoopConfig], TrainStep]


def train_worker(settings: dict[str, Any]) -> None:
    """Run on every worker of Ray Train; an error carries its traceback as a note, which Ray would lose."""
    try:
        _train(settings)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        raise


def _load_encoder(config: TrainConfig, device: str) -> MakeStep:
    """Load the encoder of a run; returns what makes its step."""
    dtype = config.lora.base_dtype if config.lora else "float32"  # adapters and what trains are float32 in any case
    encoder = Encoder.load(
        config.encoder.model_copy(update={"dtype": dtype}),
        device,
        to_train=not config.loop.compile,
        weights="cpu" if config.loop.parallel == "fsdp" else None,
    )
    if config.lora:
        attach_adapters(encoder, config.lora, config.loop.seed)
    return lambda feed, loop: TrainStep(encoder, config.loss, feed, loop, device)


def _load_reranker(config: RerankerConfig, device: str) -> MakeStep:
    """Load the reranker of a run; returns what makes its step."""
    model = PairClassifier.load(config.cross_encoder, device, config.loop.seed)
    return lambda feed, loop: RerankerStep(model, config.loss, feed, loop, device, config.batch_negatives)


JOBS: dict[str, tuple[type[TrainingConfig], Callable[[Any, str], MakeStep]]] = {
    TrainConfig.job: (TrainConfig, _load_encoder),
    RerankerConfig.job: (RerankerConfig, _load_reranker),
}


def _train(settings: dict[str, Any]) -> None:
    import os

    import ray.train
    import torch
    from ray.train.collective import barrier

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(max(1, int(settings["cpus"])))
    kind, load = JOBS[settings["job"]]
    config = validate(kind, settings["config"])
    paths = settings["paths"]
    data = Artifact.open(paths["data"], "build")
    sample = open_validation(paths["log"], data, config.validation) if config.loop.validations else None
    checks: Any = sample
    if isinstance(config, RerankerConfig):
        checks = reranking_validation(sample, config.validation_depth)
    device = "cuda" if torch.cuda.is_available() and ray.train.get_context().get_world_size() else "cpu"
    make_step = load(config, device)
    barrier()  # loading takes some ranks longer than others; from here on they wait a limited time for one another
    feed = EpochFeed(
        EpochWaiter(paths["epochs"], mark_opened=ray.train.get_context().get_world_rank() == 0), settings["stop"]
    )
    by_slot = config.loop.dropout_by_slot or isinstance(config.workers, ElasticWorkers)
    loop = make_step(feed, config.loop.model_copy(update={"dropout_by_slot": by_slot}))
    barrier()
    asynchronous = config.validation.asynchronous and checks is not None
    keeper = RayRunStore(paths["log"], config.checkpoints, config.trackers, measured=asynchronous)
    if isinstance(sample, RetrievalValidation) and sample.note:
        keeper.opening_notes.append(sample.note)
    try:
        Trainer(
            loop, keeper, checks, settings["plan"], settings["metric"], config.checkpoints, asynchronous=asynchronous
        ).run()
    finally:
        keeper.end()
