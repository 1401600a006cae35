"""The checks of the jobs that load a model: mine, train, embed and evaluate."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.encoder.config import EncoderConfig
from pipeline.evaluation.config import EvaluateConfig, untrained_models
from pipeline.search.rerank import Rerank
from pipeline.storage.disk_space import require_space
from pipeline.storage.files import join

from .ahead import Ahead
from .data import check_artifact, check_file, check_split
from .model import check_model, weight_bytes

if TYPE_CHECKING:
    from training.loop.step import LoopConfig


def _data(config: Any) -> str:
    return str(config.data or join(config.run, "data"))


def check_mine(config: Any, ahead: Ahead) -> str:
    """Check pairs, model and reranker of a mining."""
    check_split(_data(config), config.split, ("pairs",), ahead)
    model = check_model(config.encoder, ahead)
    if config.cross_encoder:
        check_model(config.encoder.model_copy(update={"model": config.cross_encoder.model, "layers": None}), ahead)
    if config.judge:
        config.judge.generator.check()
    number = getattr(config.rule, "num_negatives", None)
    target = f"{number} negative{'s' if number != 1 else ''}" if number else f"rule {config.rule.type}"
    return f"{model}; {config.top_k} candidates and {target} a pair, index {config.index.type}"


def check_train(config: Any, ahead: Ahead) -> str:
    """Check rows, trackers, model and the room for its checkpoints."""
    check_split(_data(config), "train", ("pairs", "triplets", "labelled", "queries"), ahead)
    negatives = config.paths["negatives"]
    if config.rows != "auto" and "mined" in config.rows:
        check_artifact(negatives, "mine", ahead)
    if config.replay:
        check_artifact(config.replay.path, "build", ahead)
    for tracker in config.trackers:
        tracker.check()
    model = check_model(config.encoder, ahead)
    weights = weight_bytes(config.encoder, ahead)
    copies = 1 if config.lora else 1 + 3 * (config.checkpoints.keep + 1)
    require_space(config.paths["model"], copies * weights, f"the model and {config.checkpoints.keep + 1} checkpoints")
    return f"{model}; {_plan(config)}"


def check_train_reranker(config: Any, ahead: Ahead) -> str:
    """Check rows, trackers, model and the room for its checkpoints."""
    check_split(_data(config), "train", ("pairs", "triplets", "labelled", "queries"), ahead)
    if config.rows != "auto" and "mined" in config.rows:
        check_artifact(config.paths["negatives"], "mine", ahead)
    for tracker in config.trackers:
        tracker.check()
    encoder = EncoderConfig(model=config.cross_encoder.model)
    model, copies = check_model(encoder, ahead), 1 + 3 * (config.checkpoints.keep + 1)
    space = copies * weight_bytes(encoder, ahead)
    require_space(config.paths["model"], space, f"the reranker and {config.checkpoints.keep + 1} checkpoints")
    return f"{model}; {_plan(config)}"


def _plan(config: Any) -> str:
    """Rows, loss and length of a training."""
    loop, rows = config.loop, config.rows if config.rows == "auto" else ", ".join(config.rows)
    return f"rows {rows}, {config.loss.type}, {_length(loop)} of {loop.batch_size} rows"


def _length(loop: "LoopConfig") -> str:
    """Say how long a run trains, as far as its recipe says."""
    if loop.max_steps:
        return f"{loop.max_steps} steps"
    if loop.epochs is None:
        return "epochs by the number of rows, in batches"
    return f"{loop.epochs} epoch{'s' if loop.epochs != 1 else ''}"


def check_embed(config: Any, ahead: Ahead) -> str:
    """Check the texts and the model of an embedding."""
    for path in [config.input] if isinstance(config.input, str) else config.input or []:
        if not set("*?[") & set(path):
            check_file(path, "input")
    if not config.input:
        check_artifact(_data(config), "build", ahead)
    model_path = join(config.run, "model")
    if config.encoder:
        model = check_model(config.encoder, ahead)
    elif ahead.has(model_path):
        model = f"{model_path} (to be trained)"
    else:
        check_file(model_path, "embed needs a model: name one as encoder.model, or train one")
        model = model_path
    return f"{config.role}s by {model}, {config.dtype}"


def check_evaluate(config: EvaluateConfig, ahead: Ahead) -> str:
    """Check the split and every model that is compared."""
    for data, split in [(_data(config), config.split), *((guard.path, guard.split) for guard in config.guards)]:
        check_split(data, split, ("queries", "triplets", "labelled"), ahead)
    described = {name: check_model(model, ahead) for name, model in _compared(config, ahead).items()}
    for system in config.systems:
        if isinstance(system, Rerank):
            check_model(EncoderConfig(model=system.cross_encoder.model), ahead)
    names = [*(["bm25"] if config.bm25 else []), *(f"{name} ({text})" for name, text in described.items())]
    return f"split {config.split}, {config.metrics[0]} first: {'; '.join(names)}"


def _compared(config: EvaluateConfig, ahead: Ahead) -> Mapping[str, Any]:
    """The models that will be compared, those of a training to come among them."""
    trained = join(config.run, "model")
    if not ahead.has(trained):
        return config.resolved().models
    begun_with = config.encoder or ahead.settings(trained).encoder
    planned = {**untrained_models(begun_with), "tuned": begun_with.of_saved(trained), **config.models}
    baseline = config.baseline
    if baseline and baseline not in [*planned, "bm25"]:
        raise UserError(f"baseline '{baseline}' is not among the models; choose from {', '.join(['bm25', *planned])}")
    return planned
