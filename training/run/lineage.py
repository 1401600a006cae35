"""Where a row of a step came from: its texts, ids and sources, its negatives, and the versions that made them."""

from typing import Any

import pyarrow as pa

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.storage.artifact import CONFIG, MANIFEST, Artifact
from pipeline.storage.files import filesystem, join, open_parquet, read_json
from training.data.epoch import REPLAY
from training.data.epoch_reader import EpochReader, epoch_path
from training.data.read_rows import READERS
from training.run.config import TrainConfig

STORED = {"pairs": "pairs", "triplets": "triplets", "mined": "triplets", "labelled": "labelled"}  # one row each


def explain(run: str, step: int, row: int) -> dict[str, Any]:
    """Look up row `row` of the global batch of step `step` of a run, both counted from 0, in order of slots.

    Raises UserError where the run has no such step or row, or what it was made of has been made anew.
    """
    config = _config(run)
    reader, within = _reader(config.places["epochs"], step)
    version = config.version(config.refresh.version(reader.number) if config.refresh else 0)
    batch = reader.batch(reader.step_ref(within))
    if not 0 <= row < len(batch):
        raise UserError(f"row {row}: the batch of step {step} has rows 0 to {len(batch) - 1}")
    found = batch.slice(row, 1).to_pylist()[0]
    rows = Artifact.open(version["rows"], "rows")
    if rows.manifest.fingerprint != reader.epoch.manifest.inputs["rows"]:
        raise UserError(f"{rows.path}: was made anew since this run; its rows are others now")
    source = _artifact(config, found, version["negatives"])
    where = "negatives" if found["table"] == "mined" else "replay" if found["stream"] == REPLAY else "data"
    if source.manifest.fingerprint != rows.manifest.inputs[where]:
        raise UserError(f"{source.path}: was made anew since this run; its rows are others now")
    given = _row(source, found["table"], found["table_row"])
    return {
        "step": step,
        "epoch": reader.number,
        "slot": found["slot"],
        "row": found["row"],
        "source": found["source"],
        "table": f"{source.path}: {found['table']}, row {found['table_row']}",
        "anchor": {"id": given["anchor_id"], "text": given["anchor"]},
        "positive": {
            "id": given["positive_id"],
            "text": given["positive"],
            "reason": given.get("reason"),
            "relevance": given.get("relevance"),
            "teacher": found["teacher"],
        },
        "negatives": [(given.get("negatives") or [])[one["index"]] for one in found["negatives"]],
        "versions": _versions(config, source, rows, reader.epoch),
    }


def _config(run: str) -> TrainConfig:
    place = join(run, "training", CONFIG)
    fs, root = filesystem(place)
    if not fs.exists(root):
        raise UserError(f"{run}: has no training; run `tripletail train` first")
    return validate(TrainConfig, {**read_json(place), "run": run})


def _reader(home: str, step: int) -> tuple[EpochReader, int]:
    """Find the epoch of a step, and the step in it."""
    number, left = 0, step
    while True:
        place = epoch_path(home, number)
        fs, root = filesystem(join(place, MANIFEST))
        if step < 0 or not fs.exists(root):
            raise UserError(f"step {step}: no epoch under {home} has it; they hold steps 0 to {step - left - 1}")
        reader = EpochReader(Artifact.open(place, "epoch"), number)
        if left < len(reader):
            return reader, left
        number, left = number + 1, left - len(reader)


def _artifact(config: TrainConfig, found: dict[str, Any], negatives: str) -> Artifact:
    if found["stream"] == REPLAY and config.replay:
        return config.replay.open()
    if found["table"] == "mined":
        return Artifact.open(negatives, "mine")
    return Artifact.open(config.places["data"], "build")


def _row(artifact: Artifact, kind: str, at: int) -> dict[str, Any]:
    """Row `at` of what a kind of rows reads, under the names of triplets."""
    if kind not in STORED:
        table = next(read for name, read in READERS.items() if name == kind)(artifact)
        return dict(table.slice(at, 1).to_pylist()[0])
    row = dict(_stored(artifact.files(STORED[kind]), at).to_pylist()[0])
    if kind == "labelled":
        names = {"left_id": "anchor_id", "left": "anchor", "right_id": "positive_id", "right": "positive"}
        row = {names.get(name, name): value for name, value in row.items()} | {"relevance": row["score"]}
    return row


def _stored(paths: list[str], at: int) -> pa.Table:
    """Row `at` of files taken together, read with its row group alone."""
    for path in paths:
        with open_parquet(path) as file:
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if at < rows:
                    return file.read_row_group(group).slice(at, 1)
                at -= rows
    raise UserError(f"{paths[-1]}: has no such row; it was made anew since this run")


def _versions(config: TrainConfig, source: Artifact, rows: Artifact, epoch: Artifact) -> dict[str, Any]:
    """What the row, its negatives, its tokens and its batch were made by."""
    made = {"rows": rows, "epoch": epoch, source.manifest.kind: source}
    found: dict[str, Any] = {
        name: {
            "fingerprint": one.manifest.fingerprint,
            "code": one.manifest.version,
            "created": one.manifest.created,
            "inputs": one.manifest.inputs,
        }
        for name, one in made.items()
    }
    if source.manifest.kind == "mine":
        settings = read_json(join(source.path, CONFIG))
        found["mine"] |= {"miner": settings.get("rule"), "encoder": source.manifest.notes.get("encoder")}
    return found | {"model": config.encoder.model}


def told(found: dict[str, Any]) -> str:
    """The same for a terminal."""
    lines = [f"step {found['step']} (epoch {found['epoch']}), slot {found['slot']}, row {found['row']} of the run"]
    lines += [f"source     {found['source']}", f"read from  {found['table']}"]
    for name in ("anchor", "positive"):
        one = found[name]
        beside = [f"{key} {one[key]}" for key in ("relevance", "reason", "teacher") if one.get(key) is not None]
        lines += [
            f"{name:<10} {one['id']}" + (f"  ({', '.join(beside)})" if beside else ""),
            f"           {one['text']}",
        ]
    for number, one in enumerate(found["negatives"]):
        beside = [f"{key} {one[key]}" for key in ("score", "rank", "reason") if one.get(key) is not None]
        lines += [f"negative {number} {one['doc_id']}  ({', '.join(beside) or 'given'})", f"           {one['text']}"]
    for name, one in found["versions"].items():
        lines.append(f"made by    {name}: " + (one if isinstance(one, str) else _named(one)))
    return "\n".join(lines) + "\n"


def _named(one: dict[str, Any]) -> str:
    inputs = ", ".join(f"{name} {value}" for name, value in one["inputs"].items())
    more = "".join(f"; {name} {one[name]}" for name in ("miner", "encoder") if one.get(name))
    return f"{one['fingerprint']}, code {one['code']}, {one['created']}; of {inputs}{more}"
