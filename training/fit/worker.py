"""What every worker of Ray Train runs: rows, encoder and loop from the settings, then the steps."""

from typing import Any

from pipeline.artifact import Artifact
from pipeline.config import validate
from pipeline.encoder import Encoder
from pipeline.errors import UserError
from training.batches import Rows, compose
from training.drive import Drive
from training.fit.config import TrainConfig
from training.guide import opened
from training.keeper import RayKeeper
from training.loop import Compose, Loop
from training.lora import attach
from training.replay import load_mixed
from training.rows import guided, load, load_validation, read_table, sampled


def _rows(config: TrainConfig, data: Artifact, negatives: Artifact | None, replay: str) -> tuple[Rows, Compose]:
    """Rows of a run, those of the replayed artifact among them, and how their batches are composed."""
    if config.replay is None:
        return load(config.rows, data, negatives, config.max_negatives, config.max_rows, config.mix), compose
    if config.mix:
        raise UserError("mix: replay already says how often another corpus comes; give one of the two")
    own = sampled(read_table(config.rows, data, negatives), config.max_rows)
    return load_mixed(own, data, config.replay, Artifact.open(replay, "build"), config.max_negatives)


def train_worker(settings: dict[str, Any]) -> None:
    """Run on every worker of Ray Train."""
    import os

    import ray.train
    import torch
    from ray.train.collective import barrier

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(max(1, int(settings["cpus"])))
    config = validate(TrainConfig, settings["config"])
    places = settings["places"]
    data = Artifact.open(places["data"], "build")
    negatives = Artifact.open(places["negatives"], "mine") if "mined" in config.rows else None
    rows, composed = _rows(config, data, negatives, places["replay"])
    if config.guide:
        rows = guided(rows, opened(config.guide))
    checks = load_validation(data, config.validation) if config.loop.validations else None
    device = "cuda" if torch.cuda.is_available() and ray.train.get_context().get_world_size() else "cpu"
    encoder = Encoder.load(
        config.encoder.model_copy(update={"dtype": "float32"}), device, to_train=not config.loop.compile
    )
    if config.lora:
        attach(encoder, config.lora, config.loop.seed)
    barrier()  # loading takes some ranks longer than others; from here on they wait a limited time for one another
    loop = Loop(encoder, config.loss, rows, config.loop, composed)
    barrier()
    beside = config.validation.beside and checks is not None
    keeper = RayKeeper(places["log"], config.checkpoints, config.trackers, measured=beside)
    try:
        Drive(loop, keeper, checks, settings["plan"], settings["metric"], config.checkpoints, beside=beside).run()
    finally:
        keeper.end()
