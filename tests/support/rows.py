"""Small tables of training rows."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.schema import TABLES
from pipeline.storage import artifact
from training.data import epoch, rows_artifact
from training.data.relevance import add_relevant, query_index, relevant_table
from training.data.rows import Rows
from training.data.tokenized import id_columns, optional_columns, ragged, tokenise_rows


def made(folder, kind: str, **tables) -> artifact.Artifact:
    draft = artifact.begin(str(folder / kind), kind, {"made": "by a test"}, {}, overwrite=False)
    for name, rows in tables.items():
        draft.write(name, pa.Table.from_pylist(rows, TABLES[name]))
    return draft.finish(list(tables))


def pair(query: str, doc: str, **over) -> dict:
    texts = {"anchor_id": query, "anchor": f"what is {query}", "positive_id": doc, "positive": f"it is {doc}"}
    return {**texts, "source": "test", "split": "train", "group_id": query, "relevance": 1.0, "reason": "x", **over}


def table(pairs, negatives=None):
    columns = {
        "anchor_id": [a for a, _ in pairs],
        "anchor": [f"question {a}" for a, _ in pairs],
        "positive_id": [p for _, p in pairs],
        "positive": [f"document {p}" for _, p in pairs],
    }
    if negatives is not None:
        columns["negatives"] = [[{"doc_id": n, "text": f"document {n}"} for n in row] for row in negatives]
    return pa.table(columns)


def siblings():
    """60 queries with three positives each, and a document that answers ten queries."""
    pairs = [(f"q{i}", f"d{i}-{j}") for i in range(60) for j in range(3)]
    return pairs + [(f"s{i}", "shared") for i in range(10)]


def use_small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make buckets, row groups and files so small that some hundred rows have many, on several levels."""
    monkeypatch.setattr(epoch, "BUCKET_TOKENS", 1)
    monkeypatch.setattr(epoch, "GROUP_TOKENS", 1000)
    monkeypatch.setattr(rows_artifact, "PIECE", 100)
    monkeypatch.setattr(rows_artifact, "PART_TOKENS", 1000)


def token_table(rows: Rows) -> pa.Table:
    """Tokenised rows, one token a text."""
    return tokenise_rows(rows, lambda texts, role: [[1]] * len(texts))


def gathered_columns(rows: Rows, indices: list[int] | None = None) -> dict[str, np.ndarray]:
    """The id columns that are gathered with the embeddings of some rows, or all."""
    selected = token_table(rows)
    selected = selected if indices is None else selected.take(indices)
    relevant = relevant_table(rows)
    query = query_index(relevant, selected["query_id"].to_numpy())
    batch = add_relevant(selected, np.zeros(len(selected), np.int64), relevant, query)
    width = max(int(ragged(batch[name])[1].max(initial=1)) for name in ("relevant_id", "relevant_cluster"))
    return id_columns(batch, optional_columns(batch), width)
