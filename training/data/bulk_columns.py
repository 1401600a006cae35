"""What is staged of training rows on their way to the other rows of their queries."""

import numpy as np
import pyarrow as pa

from pipeline.core.schema import TABLES
from pipeline.text.normalize import hash64
from training.data.batching import Ints, stable_id
from training.data.tokenized import ragged

FACTS = pa.schema([("anchor_id", pa.string()), ("doc_id", pa.string()), ("rank", pa.int64()), ("score", pa.float32())])
NAMES = pa.schema([("text", pa.uint64()), ("id", pa.string()), ("rank", pa.int64()), ("query", pa.bool_())])
NUMBERED = [("row", pa.int64()), ("table", pa.string()), ("at", pa.int64())]
MORE = [("right", pa.bool_()), ("grades", pa.list_(pa.float32()))]
STAGED = pa.schema([*TABLES["triplets"], *MORE, *NUMBERED])
BEHIND = 1 << 40  # negatives are named after all positives


def keyed(table: pa.Table) -> Ints:
    """Hashes of rows by which a stable sample is taken: the lowest are in it."""
    names = zip(table["anchor_id"].to_pylist(), table["positive_id"].to_pylist(), strict=True)
    return np.array([stable_id(f"{anchor}\t{positive}") for anchor, positive in names], dtype=np.int64)


def called(table: pa.Table) -> pa.Table:
    """Texts of a block by hash: whose they are, and in which order they are named."""
    rank = table["row"].to_numpy()
    given, counts = ragged(table["negatives"])
    negatives = np.repeat(rank, counts) + BEHIND
    parts = [
        (table["anchor"].to_pylist(), table["anchor_id"].to_pylist(), rank, True),
        (table["positive"].to_pylist(), table["positive_id"].to_pylist(), rank, False),
        (given.field("text").to_pylist(), given.field("doc_id").to_pylist(), negatives, False),
    ]
    tables = []
    for texts, ids, ranks, query in parts:
        hashes = np.array([hash64("text", text) for text in texts], dtype=np.uint64)
        tables.append(pa.table([hashes, pa.array(ids, pa.string()), ranks, [query] * len(texts)], schema=NAMES))
    found = pa.concat_tables(tables).group_by(["text", "id", "query"]).aggregate([("rank", "min")])
    return found.rename_columns(["text", "id", "query", "rank"]).select(NAMES.names)


def listed(facts: pa.Table) -> dict[str, list[str]]:
    """Documents by query, in order."""
    found: dict[str, list[str]] = {}
    for query, doc in zip(facts["anchor_id"].to_pylist(), facts["doc_id"].to_pylist(), strict=True):
        found.setdefault(query, []).append(doc)
    return found


def scored(table: pa.Table, scores: pa.Table) -> pa.Table:
    """Rows with the cosine that the miner had for their positives, where it mined them."""
    pairs = zip(scores["anchor_id"].to_pylist(), scores["doc_id"].to_pylist(), strict=True)
    found = dict(zip(pairs, scores["score"].to_pylist(), strict=True))
    names = zip(*(table[name].to_pylist() for name in ("anchor_id", "positive_id", "table")), strict=True)
    teacher = [found.get((anchor, doc)) if kind == "mined" else None for anchor, doc, kind in names]
    return table.append_column("teacher", pa.array(teacher, pa.float32()))
