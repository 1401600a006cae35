"""Columns that are staged of training rows until they meet the other rows of their queries."""

import numpy as np
import pyarrow as pa

from pipeline.core.schema import TABLES
from pipeline.text.normalize import hash64, stable_id
from training.data.batching import Ints
from training.data.tokenized import ragged

FACTS = pa.schema([("anchor_id", pa.string()), ("doc_id", pa.string()), ("rank", pa.int64()), ("score", pa.float32())])
NAMES = pa.schema([("text", pa.uint64()), ("id", pa.string()), ("rank", pa.int64()), ("query", pa.bool_())])
ORIGIN = [("row", pa.int64()), ("table", pa.string()), ("table_row", pa.int64())]
LABELS = [("right", pa.bool_()), ("grades", pa.list_(pa.float32()))]
STAGED = pa.schema([*TABLES["triplets"], *LABELS, *ORIGIN])
AFTER_POSITIVES = 1 << 40  # ranks of negatives come after those of all positives


def sample_hashes(table: pa.Table) -> Ints:
    """Hashes [N] by which a stable sample of rows is taken: the lowest are in it."""
    names = zip(table["anchor_id"].to_pylist(), table["positive_id"].to_pylist(), strict=True)
    return np.array([stable_id(f"{anchor}\t{positive}") for anchor, positive in names], dtype=np.int64)


def text_owners(table: pa.Table) -> pa.Table:
    """Hash, owner and rank of the texts of a block: query or document, ordered as the rows name them."""
    rank = table["row"].to_numpy()
    entries, counts = ragged(table["negatives"])
    negatives = np.repeat(rank, counts) + AFTER_POSITIVES
    parts = [
        (table["anchor"].to_pylist(), table["anchor_id"].to_pylist(), rank, True),
        (table["positive"].to_pylist(), table["positive_id"].to_pylist(), rank, False),
        (entries.field("text").to_pylist(), entries.field("doc_id").to_pylist(), negatives, False),
    ]
    tables = []
    for texts, ids, ranks, query in parts:
        hashes = np.array([hash64("text", text) for text in texts], dtype=np.uint64)
        tables.append(pa.table([hashes, pa.array(ids, pa.string()), ranks, [query] * len(texts)], schema=NAMES))
    ranked = pa.concat_tables(tables).group_by(["text", "id", "query"]).aggregate([("rank", "min")])
    return ranked.rename_columns(["text", "id", "query", "rank"]).select(NAMES.names)


def documents_by_query(facts: pa.Table) -> dict[str, list[str]]:
    """Documents of each query, in order."""
    documents: dict[str, list[str]] = {}
    for query, doc in zip(facts["anchor_id"].to_pylist(), facts["doc_id"].to_pylist(), strict=True):
        documents.setdefault(query, []).append(doc)
    return documents


def add_teacher_scores(table: pa.Table, scores: pa.Table) -> pa.Table:
    """Rows with column `teacher`: what a row carries, else of mined rows the cosine that the miner computed."""
    pairs = zip(scores["anchor_id"].to_pylist(), scores["doc_id"].to_pylist(), strict=True)
    score_of = dict(zip(pairs, scores["score"].to_pylist(), strict=True))
    columns = (table[name].to_pylist() for name in ("anchor_id", "positive_id", "table", "teacher_score"))
    teacher = [
        score_of.get((anchor, doc)) if kind == "mined" and given is None else given
        for anchor, doc, kind, given in zip(*columns, strict=True)
    ]
    return table.append_column("teacher", pa.array(teacher, pa.float32()))
