"""What the encoder of a run cuts off its training texts, told before the first step."""

from typing import Any

import pyarrow.compute as pc

from pipeline.core.progress import say
from pipeline.encoder.encoder import Encoder, Role
from pipeline.encoder.truncation import SAMPLE, Truncation
from pipeline.storage import shards
from pipeline.storage.artifact import Artifact
from training.data.read_rows import Kind
from training.run.config import TrainConfig

_ROWS_PER_SHARD = 4096
_COLUMNS: dict[Kind, dict[Role, tuple[str, str]]] = {  # table and column of the texts of a role
    "pairs": {"query": ("pairs", "anchor"), "document": ("pairs", "positive")},
    "triplets": {"query": ("triplets", "anchor"), "document": ("triplets", "positive")},
    "mined": {"query": ("triplets", "anchor"), "document": ("triplets", "positive")},
    "labelled": {"query": ("labelled", "left"), "document": ("labelled", "right")},
    "judged": {"query": ("queries", "text"), "document": ("corpus", "text")},
}


def measure(
    config: TrainConfig, data: Artifact, negatives: Artifact | None, encoder: Encoder
) -> dict[Role, dict[str, Any]]:
    """Notes for the manifest by role, on a sample of the training rows; each is said too.

    A row's negatives are documents as its positive is, and are not looked at.
    """
    notes: dict[Role, dict[str, Any]] = {}
    for role in ("query", "document"):
        texts: list[str] = []
        for kind in config.kinds:
            table, column = _COLUMNS[kind][role]
            source = negatives if kind == "mined" and negatives else data
            texts += _sample(source, table, column, -(-SAMPLE // len(config.kinds)))
        truncation = Truncation.measure(encoder, texts, role)
        say(f"train: {truncation.sentence()}")
        notes[role] = truncation.note()
    return notes


def _sample(artifact: Artifact, table: str, column: str, rows: int) -> list[str]:
    """Texts of rows of the training split, spread evenly; fewer than `rows` where other splits lie between them."""
    columns = [column] if table == "corpus" else [column, "split"]
    plan = shards.plan(artifact.files(table), _ROWS_PER_SHARD, "truncation") if artifact.has(table) else []
    texts: list[str] = []
    for part in shards.sample(plan, columns, rows):
        rows_of_split = part if table == "corpus" else part.filter(pc.equal(part["split"], "train"))
        texts += [text for text in rows_of_split[column].to_pylist() if text]
    return texts
