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
from pipeline.encoder.model_card import public_name
from pipeline.mining import job
from pipeline.mining.config import MineConfig
from pipeline.storage.artifact import CONFIG, MANIFEST, Artifact
from pipeline.storage.files import filesystem, join, read_json, read_parquet, remove_folder
from training.data.epoch_reader import epoch_path
from training.loop.checkpoint import load_weights
from training.loop.embed_module import EmbedModule
from training.loop.lora import attach_adapters, merge_adapters
from training.run.config import TrainConfig
from training.run.epochs import EpochComposer, count_steps, epoch_settings, prepare_rows, total_steps
from training.run.jsonl_log import JsonlLog
from training.run.ray_trainer import RunCheckpoints, committed, fit
from training.run.resources import plan_resources
from training.run.run_store import METRICS, remove_copies


@dataclass(frozen=True)
class Inputs:
    """Artifacts that a run trains on, and the model that it starts from."""

    data: Artifact
    negatives: Artifact | None
    replayed: Artifact | None
    base: Encoder


@dataclass(frozen=True)
class Trained:
    """Result of a run: its checkpoints, its first rows and epoch, and a record of each later version of negatives."""

    checkpoints: RunCheckpoints
    rows: Artifact
    first: Artifact
    versions: list[dict[str, Any]]


def train_rounds(config: TrainConfig, inputs: Inputs, plan: str) -> Trained:
    """Train round after round; rounds that an earlier call has finished are skipped."""
    cluster, home = plan_resources(config), config.paths["epochs"]
    how = epoch_settings(config, range(cluster.min_workers, cluster.max_workers + 1))
    first = rows = prepare_rows(config, inputs.data, inputs.negatives, inputs.replayed, inputs.base)
    negatives, start = inputs.negatives, 0
    versions: list[dict[str, Any]] = []
    for number in count():
        stop = config.refresh.stop(number) if config.refresh else None
        if stop is None or not _round_finished(config, number, stop):
            with EpochComposer(rows, how, config, start, stop, cluster.spare_cpus):
                checkpoints = fit(config, plan, stop)
            checkpoint, step = checkpoints.newest()
            if stop is None or step >= total_steps(home, config.loop) or not _is_through(home, stop, step):
                return Trained(checkpoints, first, Artifact.open(epoch_path(home, 0), "epoch"), versions)
            _mine_again(config, number + 1, checkpoint, step)
        # the model that has mined, also where a call was killed right after its mining
        remove_folder(config.version(number + 1)["model"])
        before, negatives = negatives, Artifact.open(config.version(number + 1)["negatives"], "mine")
        versions.append(_describe_version(config, number + 1, count_steps(home, stop), before, negatives))
        rows = prepare_rows(config, inputs.data, negatives, inputs.replayed, inputs.base, number + 1)
        start = stop
    raise AssertionError("a run has a last round")


def load_trained(config: TrainConfig, base: Encoder, checkpoint: Path, share: float = 1.0) -> dict[str, bytes]:
    """Load trained weights into the base; returns the files of adapters, which are merged into it.

    `share` is that of the trained weights, the rest is the base's.
    """
    adapters = attach_adapters(base, config.lora, config.loop.seed) if config.lora else None
    load_weights(EmbedModule(base, config.loss.learnable()), checkpoint, 1.0 if adapters else share)
    remove_copies()
    return merge_adapters(base, adapters, public_name(config.encoder.model), share) if adapters else {}


def _round_finished(config: TrainConfig, number: int, stop: int) -> bool:
    """Whether a round has been trained to its end and the next version has been mined."""
    steps = [figures["step"] for figures in committed(config.paths["log"]).values()]
    mined = _exists(config.version(number + 1)["negatives"])
    return mined and bool(steps) and _is_through(config.paths["epochs"], stop, max(steps))


def _is_through(home: str, stop: int, step: int) -> bool:
    """Whether a step is the last before epoch `stop`, or a later one; training that stops early never gets there."""
    return all(_exists(epoch_path(home, epoch)) for epoch in range(stop)) and step >= count_steps(home, stop)


def _exists(path: str) -> bool:
    fs, root = filesystem(join(path, MANIFEST))
    return bool(fs.exists(root))


def _mine_again(config: TrainConfig, number: int, checkpoint: Path, step: int) -> None:
    """Mine a version of the negatives with the weights of a checkpoint, and the settings of the first version."""
    paths = config.version(number)
    say(f"train: mines negatives anew with the model of step {step}")
    model = Encoder.load(config.encoder.model_copy(update={"dtype": "float32"}), "cpu")
    model.save(paths["model"], extra_files=load_trained(config, model, checkpoint))
    mine_settings = read_json(join(config.paths["negatives"], CONFIG))
    mine_settings |= {
        "encoder": {**mine_settings["encoder"], "model": paths["model"], "layers": None, "revision": None},
        "candidates": None,
    }
    mine_settings |= {"run": config.run, "data": config.paths["data"], "out": paths["negatives"], "cache": None}
    job.run(validate(MineConfig, mine_settings))


def _describe_version(
    config: TrainConfig, number: int, step: int, before: Artifact | None, after: Artifact
) -> dict[str, Any]:
    """Record of a version; printed, and noted in the metrics of the run once."""
    assert before is not None, "refresh wants mined rows"
    share = changed_share(before, after)
    lines, text = JsonlLog(join(config.paths["log"], METRICS)), f"{share:.1%} of the negatives are others than before"
    note = {"step": step, "note": f"epoch {config.refresh and config.refresh.stop(number - 1)}: {text}"}
    if note not in lines.rows():
        lines.append(note)
        lines.flush()
        say(f"train: {note['note']}")
    return {"version": number, "step": step, "fingerprint": after.manifest.fingerprint, "changed": round(share, 6)}


def changed_share(before: Artifact, after: Artifact) -> float:
    """Share of the negatives of a mining that the same rows of an earlier one do not have, file by file."""
    total = others = 0
    for old, new in zip(before.files("triplets"), after.files("triplets"), strict=True):
        old_keys, new_keys = (
            _keys(read_parquet(name, "triplets", columns=["negatives"])["negatives"]) for name in (old, new)
        )
        total += len(new_keys)
        others += len(new_keys) - (pc.sum(pc.is_in(new_keys, old_keys)).as_py() or 0)
    return others / max(1, total)


def _keys(negatives: pa.ChunkedArray) -> pa.Array:
    """One key for each negative of each row."""
    lists = negatives.combine_chunks()
    row = pc.cast(pc.list_parent_indices(lists), pa.string())
    return pc.binary_join_element_wise(row, pc.struct_field(pc.list_flatten(lists), "doc_id"), ":")
