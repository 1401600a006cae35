"""Small tables of training rows."""

import pyarrow as pa

from pipeline.core.schema import TABLES
from pipeline.storage import artifact


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
