"""The training job: Ray Train runs the loop on every worker, keeps checkpoints, restarts it when one dies."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Annotated, Any, TypeVar

from pydantic import Field, model_validator

from pipeline import artifact, engine, files
from pipeline.artifact import Artifact
from pipeline.attention import PACKED
from pipeline.config import JobConfig, validate
from pipeline.console import say
from pipeline.encoder import Encoder, EncoderConfig
from pipeline.errors import UserError
from training import card
from training.batches import Rows, compose
from training.checkpoint import load_weights
from training.guide import GuideConfig, opened
from training.keeper import Follow, MetricsFile, RayKeeper
from training.loop import Compose, Embed, Loop, LoopConfig
from training.lora import LoraConfig, attach, merge
from training.losses.infonce import InfoNCE
from training.losses.union import Loss, check
from training.replay import Replay, load_mixed
from training.rows import Kind, ValidationConfig, guided, load, load_validation, read_table, sampled

T = TypeVar("T")


class TrainConfig(JobConfig):
    """Fine-tune an encoder by contrastive learning, with negatives shared by all workers."""

    data: str | None = Field(None, description="artifact of build; default {run}/data")
    negatives: str | None = Field(None, description="artifact of mine; default {run}/negatives where it exists")
    out: str | None = Field(None, description="model directory; default {run}/model")
    encoder: EncoderConfig = EncoderConfig()
    lora: LoraConfig | None = Field(None, description="train low-rank adapters in place of the weights")
    loss: Loss = InfoNCE()
    rows: list[Kind] = Field(["pairs"], min_length=1, description="tables to train on")
    guide: GuideConfig | None = Field(None, description="vectors of another model, for loss.mask.guide_margin")
    max_negatives: int | None = Field(None, ge=0, description="given negatives a row at most")
    max_rows: int | None = Field(None, ge=2, description="train on a stable sample of this many rows")
    replay: Replay | None = Field(None, description="another corpus in some of the batches")
    mix: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="how often an epoch takes the rows of a source: {shop: 2, forum: 0.25}; once where not said"
    )
    loop: LoopConfig = LoopConfig()
    tuned_share: float = Field(
        1.0, gt=0, le=1, description="of the final weights; the rest is the base's, which keeps what it knew (WiSE-FT)"
    )
    validation: ValidationConfig = ValidationConfig()
    workers: int | None = Field(None, ge=1, description="default: one a GPU, else one a CPU up to 2")
    max_failures: int = Field(2, ge=0, description="restarts from the last checkpoint after a worker's death")

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        if self.loop.compile and self.encoder.attention in PACKED:
            raise ValueError("loop.compile takes padded texts; set encoder.attention auto, sdpa or eager")
        return self

    @property
    def places(self) -> dict[str, str]:
        """Absolute places of data, model directory and training log."""
        home = files.absolute(self.run)
        return {
            "data": files.absolute(self.data) if self.data else files.join(home, "data"),
            "negatives": files.absolute(self.negatives) if self.negatives else files.join(home, "negatives"),
            "replay": files.absolute(self.replay.place) if self.replay else "",
            "model": files.absolute(self.out) if self.out else files.join(home, "model"),
            "log": files.join(home, "training"),
            "metrics": files.join(home, "training", "metrics.jsonl"),
        }

    def recipes(self) -> list[str]:
        """Return the recipe of the replayed corpus."""
        return [self.replay.recipe] if self.replay and self.replay.recipe else []


def run(config: TrainConfig) -> str:
    """Train and leave a model directory that Sentence Transformers loads; returns its path.

    A finished run of the same data and settings is left as it is; an unfinished one goes on at its last checkpoint.
    """
    check(
        config.loss,
        [*config.rows, *(config.replay.rows if config.replay else ())],
        guided=config.guide is not None,
    )
    places = config.places
    data = Artifact.open(places["data"], "build")
    negatives = Artifact.open(places["negatives"], "mine") if "mined" in config.rows else None
    base = Encoder.load(config.encoder.model_copy(update={"dtype": "float32"}), "cpu")
    inputs = {"data": data.manifest.fingerprint, "encoder": base.identity["weights"]}
    if negatives:
        inputs["negatives"] = negatives.manifest.fingerprint
    replayed = config.replay.open() if config.replay else None
    if replayed:
        inputs["replay"] = replayed.manifest.fingerprint
    inputs |= {name: one.manifest.fingerprint for name, one in opened(config.guide).items()}
    draft = artifact.begin(places["log"], "train", config.digested(), inputs, overwrite=config.overwrite, keep=True)
    if isinstance(draft, Artifact):
        say(f"train: already done: {places['model']}")
        return places["model"]
    engine.start()
    plan = artifact.digest([draft.settings, draft.inputs])
    checkpoint, measured = _fit(config, places, plan)
    beside = _finished(config, base, checkpoint)
    rows, sources = _described(config, data, negatives, replayed)
    base.save(places["model"], card.write(config.model_dump(mode="json"), measured, rows, sources), beside)
    draft.finish([], model=places["model"], rows=rows, plan=plan, validation=measured)
    say(f"train: done: {places['model']}")
    return places["model"]


def _finished(config: TrainConfig, base: Encoder, checkpoint: Path) -> dict[str, bytes]:
    """Load the trained weights into the base; returns the files of adapters, which are merged into it."""
    adapters = attach(base, config.lora, config.loop.seed) if config.lora else None
    load_weights(Embed(base, config.loss.learned()), checkpoint, 1.0 if adapters else config.tuned_share)
    return merge(base, adapters, config.encoder.model, config.tuned_share) if adapters else {}


def _described(
    config: TrainConfig, data: Artifact, negatives: Artifact | None, replayed: Artifact | None
) -> tuple[int, list[str]]:
    """Rows of the run's own, and the sources of all that it trained on."""
    table = sampled(read_table(config.rows, data, negatives), config.max_rows)
    sources = set(table["source"].to_pylist())
    if config.replay and replayed:
        sources |= set(read_table(list(config.replay.rows), replayed, None)["source"].to_pylist())
    return len(table), sorted(sources)


def _fit(config: TrainConfig, places: dict[str, str], plan: str) -> tuple[Path, list[dict[str, Any]]]:
    """Run Ray Train; returns the directory of the best checkpoint and the validation figures."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    workers, per_worker, on_gpu = _resources(config)
    say(f"train: {workers} worker(s) with {per_worker['CPU']} CPU each{' and a GPU' if on_gpu else ''}")
    metric = config.validation.measured(Artifact.open(places["data"], "build"))
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "places": places,
            "plan": plan,
            "cpus": per_worker["CPU"],
        },
        torch_config=TorchConfig(timeout_s=600),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=on_gpu, resources_per_worker=per_worker),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=places["log"],
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute=metric if config.loop.validations else None,
                checkpoint_score_order="max",
            ),
        ),
    )
    with Follow(places["metrics"], metric):
        result = _beside(trainer.fit)
    kept = result.best_checkpoints or []
    if not kept:
        raise UserError(f"train: no checkpoint in {places['log']}; the run ended before its first validation")
    best, figures = max(kept, key=lambda pair: (pair[1].get(metric, -1.0), pair[1]["step"]))
    kind = f"best by {metric} {figures[metric]:.4f}" if metric in figures else "last"
    say(f"train: checkpoint of step {figures['step']}, the {kind}")
    lines = MetricsFile(places["metrics"]).rows()
    return Path(best.to_directory()), [row for row in lines if metric in row]


def _beside(work: Callable[[], T]) -> T:
    """Call `work` on a thread and wait: on the main thread Ray Train takes Ctrl-C for itself and keeps it."""
    done: Queue[T | BaseException] = Queue()

    def call() -> None:
        try:
            done.put(work())
        except BaseException as error:
            done.put(error)

    threading.Thread(target=call, daemon=True).start()
    while True:
        with suppress(Empty):
            result = done.get(timeout=0.5)
            if isinstance(result, BaseException):
                raise result
            return result


def _resources(config: TrainConfig) -> tuple[int, dict[str, float], bool]:
    """Workers, what each gets, and whether that is a GPU."""
    gpus, cpus = engine.gpus(), engine.cpus()
    workers = config.workers or (gpus if gpus else min(2, cpus))
    if workers > max(cpus, gpus):
        raise UserError(f"workers {workers}: the cluster has {cpus} CPUs and {gpus} GPUs; give at most one worker each")
    return workers, {"CPU": float(max(1, cpus // workers))} | ({"GPU": 1} if gpus >= workers else {}), gpus >= workers


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
    loop = Loop(encoder, config.loss, rows, config.loop, composed)
    loop.run(RayKeeper(MetricsFile(places["metrics"])), checks, settings["plan"])
