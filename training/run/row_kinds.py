"""Which tables a run trains on where the recipe leaves it open, `rows: auto`, and which it leaves aside.

    rows: auto      # mined negatives and triplets where they are, else pairs; labelled pairs for a loss on scores

Whatever was made and is not used is said in one line, so that an hour of mining is never wasted in silence.
"""

from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.progress import say
from pipeline.storage.artifact import MANIFEST, Artifact
from pipeline.storage.files import filesystem, join, open_parquet
from training.data.read_rows import Kind
from training.run.config import TrainingConfig

C = TypeVar("C", bound=TrainingConfig)


def resolve_rows(config: C, data: Artifact) -> C:
    """Settings with the kinds of rows named; says which they are and what was made but is not used.

    Raises UserError where other settings need rows that there are not.
    """
    available = training_rows(data, mined_negatives(config, data))
    kinds = auto_kinds(config, available) if config.rows == "auto" else config.kinds
    config.check_kinds(kinds)
    unused = {kind: rows for kind, rows in available.items() if rows and not _is_used(kind, kinds)}
    if unused or config.rows == "auto":
        say(f"train: {describe_rows(kinds, available, unused, auto=config.rows == 'auto')}")
    return config.model_copy(update={"rows": kinds})


def auto_kinds(config: TrainingConfig, available: dict[Kind, int]) -> list[Kind]:
    """Kinds of rows of a loss: scored pairs where it learns from scores, else mined rows or pairs, and triplets."""
    if available["labelled"] and config.prefers_scored_pairs(available):
        return ["labelled"]
    kinds: list[Kind] = ["mined" if available["mined"] else "pairs"]
    if available["triplets"]:
        kinds = [*(kinds if available[kinds[0]] else []), "triplets"]
    return kinds


def _is_used(kind: Kind, kinds: list[Kind]) -> bool:
    """Whether rows are trained on; mined rows are the pairs, each with its negatives."""
    return kind in kinds or (kind == "pairs" and "mined" in kinds)


def describe_rows(kinds: list[Kind], available: dict[Kind, int], unused: dict[Kind, int], *, auto: bool) -> str:
    """Say which rows are trained on, and which were made for nothing."""
    used = ", ".join(f"{kind} {available[kind]:,}" if kind in available else kind for kind in kinds)
    text = f"rows {'auto: ' if auto else ''}{used}"
    if not unused:
        return text
    names = ", ".join(f"{kind} {rows:,}" for kind, rows in unused.items())
    return f"{text}; made but not used: {names} (rows: [{', '.join([*kinds, *unused])}] would)"


def training_rows(data: Artifact, negatives: Artifact | None) -> dict[Kind, int]:
    """Rows of the training split by kind; mined ones only where some of them have a negative."""
    has_mined = negatives is not None and _has_negatives(negatives)
    kinds: tuple[Kind, ...] = ("mined", "pairs", "triplets", "labelled")
    return {kind: _train_rows(kind, data, negatives if has_mined else None) for kind in kinds}


def count_rows(config: TrainingConfig, data: Artifact, negatives: Artifact | None) -> int:
    """Rows of the training split in the named kinds, before any is left out; at most `max_rows`."""
    rows = sum(_train_rows(kind, data, negatives) for kind in config.kinds)
    return min(rows, config.max_rows or rows)


def _train_rows(kind: Kind, data: Artifact, negatives: Artifact | None) -> int:
    """Rows of the training split of a kind: as the build noted them, else counted."""
    if kind == "mined":
        return _count(negatives, "triplets") if negatives else 0
    table = "queries" if kind == "judged" else kind
    noted = data.manifest.notes.get("splits", {}).get(table)
    return int(noted.get("train", 0)) if noted else _count(data, table)


def _has_negatives(negatives: Artifact) -> bool:
    per_row = negatives.manifest.notes.get("negatives_per_row", {})
    return any(int(number) and count for number, count in per_row.items())


def _count(artifact: Artifact, table: str) -> int:
    """Rows of a table that are of the training split, read one column of one row group at a time."""
    total = 0
    for path in artifact.files(table) if artifact.has(table) else ():
        with open_parquet(path) as parquet:
            for batch in parquet.iter_batches(columns=["split"]):
                total += pc.sum(pc.equal(batch.column(0), pa.scalar("train"))).as_py() or 0
    return total


def mined_negatives(config: TrainingConfig, data: Artifact) -> Artifact | None:
    """The finished artifact of mine, None where there is none; `auto` leaves one of other data aside, and says so."""
    path = config.paths["negatives"]
    fs, root = filesystem(join(path, MANIFEST))
    if not fs.exists(root):
        return None
    negatives = Artifact.open(path, "mine")
    if config.rows == "auto" and negatives.manifest.inputs.get("data") != data.manifest.fingerprint:
        say(f"train: {path}: was mined from other data than {data.path}; not used, run `mine` again")
        return None
    return negatives
