"""Lineage of a training row: its texts, ids and sources, its negatives, and the versions that made them."""

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
    reader, within = _reader(config.paths["epochs"], step)
    version = config.version(config.refresh.version(reader.number) if config.refresh else 0)
    batch = reader.batch(reader.step_ref(within))
    if not 0 <= row < len(batch):
        raise UserError(f"row {row}: the batch of step {step} has rows 0 to {len(batch) - 1}")
    tokens = batch.slice(row, 1).to_pylist()[0]
    rows = Artifact.open(version["rows"], "rows")
    if rows.manifest.fingerprint != reader.epoch.manifest.inputs["rows"]:
        raise UserError(f"{rows.path}: was made anew since this run; its rows are others now")
    source = _artifact(config, tokens, version["negatives"])
    where = "negatives" if tokens["table"] == "mined" else "replay" if tokens["stream"] == REPLAY else "data"
    if source.manifest.fingerprint != rows.manifest.inputs[where]:
        raise UserError(f"{source.path}: was made anew since this run; its rows are others now")
    source_row = _row(source, tokens["table"], tokens["table_row"])
    return {
        "step": step,
        "epoch": reader.number,
        "slot": tokens["slot"],
        "row": tokens["row"],
        "source": tokens["source"],
        "table": f"{source.path}: {tokens['table']}, row {tokens['table_row']}",
        "anchor": {"id": source_row["anchor_id"], "text": source_row["anchor"]},
        "positive": {
            "id": source_row["positive_id"],
            "text": source_row["positive"],
            "reason": source_row.get("reason"),
            "relevance": source_row.get("relevance"),
            "teacher": tokens["teacher"],
        },
        "negatives": [(source_row.get("negatives") or [])[negative["index"]] for negative in tokens["negatives"]],
        "versions": _versions(config, source, rows, reader.epoch),
    }


def _config(run: str) -> TrainConfig:
    path = join(run, "training", CONFIG)
    fs, root = filesystem(path)
    if not fs.exists(root):
        raise UserError(f"{run}: has no training; run `tripletail train` first")
    return validate(TrainConfig, {**read_json(path), "run": run})


def _reader(home: str, step: int) -> tuple[EpochReader, int]:
    """Find the epoch of a step, and the step in it."""
    number, left = 0, step
    while True:
        path = epoch_path(home, number)
        fs, root = filesystem(join(path, MANIFEST))
        if step < 0 or not fs.exists(root):
            raise UserError(f"step {step}: no epoch under {home} has it; they hold steps 0 to {step - left - 1}")
        reader = EpochReader(Artifact.open(path, "epoch"), number)
        if left < len(reader):
            return reader, left
        number, left = number + 1, left - len(reader)


def _artifact(config: TrainConfig, row: dict[str, Any], negatives: str) -> Artifact:
    if row["stream"] == REPLAY and config.replay:
        return config.replay.open()
    if row["table"] == "mined":
        return Artifact.open(negatives, "mine")
    return Artifact.open(config.paths["data"], "build")


def _row(artifact: Artifact, kind: str, at: int) -> dict[str, Any]:
    """Row `at` of the table that a kind of rows is read from, under the names of triplets."""
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
    """Versions of the artifacts that the row, its negatives, its tokens and its batch come from."""
    artifacts = {"rows": rows, "epoch": epoch, source.manifest.kind: source}
    versions: dict[str, Any] = {
        name: {
            "fingerprint": item.manifest.fingerprint,
            "code": item.manifest.version,
            "created": item.manifest.created,
            "inputs": item.manifest.inputs,
        }
        for name, item in artifacts.items()
    }
    if source.manifest.kind == "mine":
        settings = read_json(join(source.path, CONFIG))
        versions["mine"] |= {"miner": settings.get("rule"), "encoder": source.manifest.notes.get("encoder")}
    return versions | {"model": config.encoder.model}


def format_lineage(lineage: dict[str, Any]) -> str:
    """Format the lineage for a terminal."""
    lines = [
        f"step {lineage['step']} (epoch {lineage['epoch']}), slot {lineage['slot']}, row {lineage['row']} of the run"
    ]
    lines += [f"source     {lineage['source']}", f"read from  {lineage['table']}"]
    for name in ("anchor", "positive"):
        entry = lineage[name]
        details = [f"{key} {entry[key]}" for key in ("relevance", "reason", "teacher") if entry.get(key) is not None]
        lines += [
            f"{name:<10} {entry['id']}" + (f"  ({', '.join(details)})" if details else ""),
            f"           {entry['text']}",
        ]
    for number, entry in enumerate(lineage["negatives"]):
        details = [f"{key} {entry[key]}" for key in ("score", "rank", "reason") if entry.get(key) is not None]
        lines += [
            f"negative {number} {entry['doc_id']}  ({', '.join(details) or 'given'})",
            f"           {entry['text']}",
        ]
    for name, entry in lineage["versions"].items():
        lines.append(f"made by    {name}: " + (entry if isinstance(entry, str) else _format_version(entry)))
    return "\n".join(lines) + "\n"


def _format_version(version: dict[str, Any]) -> str:
    inputs = ", ".join(f"{name} {value}" for name, value in version["inputs"].items())
    more = "".join(f"; {name} {version[name]}" for name in ("miner", "encoder") if version.get(name))
    return f"{version['fingerprint']}, code {version['code']}, {version['created']}; of {inputs}{more}"
