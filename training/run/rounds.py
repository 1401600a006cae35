"""A run as rounds of epochs: one, or, with `refresh`, one for each version of the negatives.

A round ends with a committed checkpoint after the last step of its epochs, and the next goes on from it as the same
command does after a kill: exactly. Between the two the model, as it is then, mines the next version.
"""

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.config import validate
from pipeline.core.progress import say
from pipeline.encoder.encoder import Encoder
from pipeline.mining import job
from pipeline.mining.config import MineConfig
from pipeline.storage.artifact import CONFIG, MANIFEST, Artifact
from pipeline.storage.files import filesystem, join, read_json, read_parquet
from training.data.epoch_reader import epoch_path
from training.loop.checkpoint import load_weights
from training.loop.lora import attach_adapters, merge_adapters
from training.loop.step import EmbedModule
from training.run.config import TrainConfig
from training.run.epochs import Epochs, composed, prepared, recipe, total_steps
from training.run.jsonl_log import Lines
from training.run.ray_trainer import Kept, committed, fit
from training.run.resources import resources
from training.run.run_store import METRICS


@dataclass(frozen=True)
class Inputs:
    """What a run trains on, and the model it begins with."""

    data: Artifact
    negatives: Artifact | None
    replayed: Artifact | None
    base: Encoder


@dataclass(frozen=True)
class Trained:
    """What a run left: its checkpoints, its first rows and epoch, and what is known of later versions of negatives."""

    kept: Kept
    rows: Artifact
    first: Artifact
    versions: list[dict[str, Any]]


def rounds(config: TrainConfig, inputs: Inputs, plan: str) -> Trained:
    """Train round after round; one that an interrupted call has brought to its end is passed over."""
    given, home = resources(config), config.places["epochs"]
    how = recipe(config, range(given.least, given.most + 1))
    first = rows = prepared(config, inputs.data, inputs.negatives, inputs.replayed, inputs.base)
    negatives, start = inputs.negatives, 0
    versions: list[dict[str, Any]] = []
    for number in count():
        stop = config.refresh.stop(number) if config.refresh else None
        if stop is None or not _over(config, number, stop):
            with Epochs(rows, how, config, start, stop):
                kept = fit(config, plan, stop)
            checkpoint, step = kept.newest()
            if stop is None or step >= total_steps(home, config.loop) or not _through(home, stop, step):
                return Trained(kept, first, Artifact.open(epoch_path(home, 0), "epoch"), versions)
            _mine(config, number + 1, checkpoint, step)
        _clear(config.version(number + 1)["model"])
        before, negatives = negatives, Artifact.open(config.version(number + 1)["negatives"], "mine")
        versions.append(_described(config, number + 1, composed(home, stop), before, negatives))
        rows = prepared(config, inputs.data, negatives, inputs.replayed, inputs.base, number + 1)
        start = stop
    raise AssertionError("a run has a last round")


def finished(config: TrainConfig, base: Encoder, checkpoint: Path, share: float = 1.0) -> dict[str, bytes]:
    """Load trained weights into the base; returns the files of adapters, which are merged into it.

    `share` is that of the trained weights, the rest is the base's.
    """
    adapters = attach_adapters(base, config.lora, config.loop.seed) if config.lora else None
    load_weights(EmbedModule(base, config.loss.learnable()), checkpoint, 1.0 if adapters else share)
    return merge_adapters(base, adapters, config.encoder.model, share) if adapters else {}


def _over(config: TrainConfig, number: int, stop: int) -> bool:
    """Whether a round was trained to its end and the version after it is mined."""
    steps = [figures["step"] for figures in committed(config.places["log"]).values()]
    mined = _whole(config.version(number + 1)["negatives"])
    return mined and bool(steps) and _through(config.places["epochs"], stop, max(steps))


def _through(home: str, stop: int, step: int) -> bool:
    """Whether a step is the last before epoch `stop`, or a later one; training that stops early never gets there."""
    return all(_whole(epoch_path(home, one)) for one in range(stop)) and step >= composed(home, stop)


def _whole(place: str) -> bool:
    fs, root = filesystem(join(place, MANIFEST))
    return bool(fs.exists(root))


def _mine(config: TrainConfig, number: int, checkpoint: Path, step: int) -> None:
    """Mine a version of the negatives with the weights of a checkpoint, and the settings of the first version."""
    places = config.version(number)
    say(f"train: mines negatives anew with the model of step {step}")
    model = Encoder.load(config.encoder.model_copy(update={"dtype": "float32"}), "cpu")
    model.save(places["model"], extra_files=finished(config, model, checkpoint))
    asked = read_json(join(config.places["negatives"], CONFIG))
    asked |= {"encoder": {**asked["encoder"], "model": places["model"], "layers": None}, "candidates": None}
    asked |= {"run": config.run, "data": config.places["data"], "out": places["negatives"], "cache": None}
    job.run(validate(MineConfig, asked))


def _clear(place: str) -> None:
    """Remove the model that has mined; a call that was killed right after its mining left it behind."""
    fs, root = filesystem(place)
    if fs.exists(root):
        fs.rm(root, recursive=True)


def _described(config: TrainConfig, number: int, step: int, before: Artifact | None, after: Artifact) -> dict[str, Any]:
    """What is known of a version; said, and noted in the metrics of the run once."""
    assert before is not None, "refresh wants mined rows"
    share = fresh(before, after)
    lines, text = Lines(join(config.places["log"], METRICS)), f"{share:.1%} of the negatives are others than before"
    note = {"step": step, "note": f"epoch {config.refresh and config.refresh.stop(number - 1)}: {text}"}
    if note not in lines.rows():
        lines.append(note)
        lines.flush()
        say(f"train: {note['note']}")
    return {"version": number, "step": step, "fingerprint": after.manifest.fingerprint, "fresh": round(share, 6)}


def fresh(before: Artifact, after: Artifact) -> float:
    """Share of the negatives of a mining that the same rows of an earlier one do not have, file by file."""
    every = others = 0
    for old, new in zip(before.files("triplets"), after.files("triplets"), strict=True):
        held, found = (_keys(read_parquet(name, "triplets", columns=["negatives"])["negatives"]) for name in (old, new))
        every += len(found)
        others += len(found) - (pc.sum(pc.is_in(found, held)).as_py() or 0)
    return others / max(1, every)


def _keys(negatives: pa.ChunkedArray) -> pa.Array:
    """One string for each negative of each row."""
    lists = negatives.combine_chunks()
    row = pc.cast(pc.list_parent_indices(lists), pa.string())
    return pc.binary_join_element_wise(row, pc.struct_field(pc.list_flatten(lists), "doc_id"), ":")
