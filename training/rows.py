"""Training rows and the validation sample of a run, read from its artifacts."""

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.artifact import Artifact
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.schema import TABLES
from training import validation
from training.batches import Rows, rows_from, stable_id

Kind = Literal["pairs", "triplets", "mined"]


class ValidationConfig(Config):
    """Which held-out queries are measured while training, and over how large a sample of the corpus."""

    split: Literal["dev", "test"] = "dev"
    max_queries: int = Field(200, ge=1)
    max_documents: int = Field(1000, ge=10)
    metric: Literal["ndcg@10", "mrr@10"] = Field("ndcg@10", description="the best checkpoint is the best of this")


def read_table(kinds: list[Kind], data: Artifact, negatives: Artifact | None) -> pa.Table:
    """Concatenate the training split of the named tables as triplets; pairs have no negatives."""
    parts = []
    for kind in kinds:
        if kind == "mined" and negatives is None:
            raise UserError("rows: 'mined' needs mined negatives; run `python -m scripts.mine` first")
        home = negatives if kind == "mined" and negatives else data
        table = home.read("triplets" if kind == "mined" else kind)
        if "negatives" not in table.column_names:
            field = TABLES["triplets"].field("negatives")
            table = table.append_column(field, pa.nulls(len(table), field.type))
        parts.append(table.filter(pc.equal(table["split"], "train")))
    table = pa.concat_tables(parts)
    if not len(table):
        raise UserError(f"{data.path}: no training rows in {', '.join(kinds)}")
    return table


def load(
    kinds: list[Kind], data: Artifact, negatives: Artifact | None, max_negatives: int | None, max_rows: int | None
) -> Rows:
    """Read rows with every known positive of their queries; `max_rows` keeps a stable sample."""
    table = read_table(kinds, data, negatives)
    if max_rows is not None and len(table) > max_rows:
        keys = [
            stable_id(f"{a}\t{p}")
            for a, p in zip(*(table[c].to_pylist() for c in ("anchor_id", "positive_id")), strict=True)
        ]
        table = table.take(sorted(sorted(range(len(keys)), key=keys.__getitem__)[:max_rows]))
    return rows_from(table, relevant(data), max_negatives)


def relevant(data: Artifact) -> dict[str, list[str]]:
    """Documents judged relevant, by training query."""
    found: dict[str, list[str]] = {}
    if data.has("qrels"):
        qrels = data.read("qrels")
        qrels = qrels.filter(pc.and_(pc.greater(qrels["relevance"], 0), pc.equal(qrels["split"], "train")))
        for query, doc in zip(qrels["query_id"].to_pylist(), qrels["doc_id"].to_pylist(), strict=True):
            found.setdefault(query, []).append(doc)
    return found


def load_validation(data: Artifact, config: ValidationConfig) -> validation.Validation | None:
    """Read the validation sample; None when the split has no judged query."""
    if not all(data.has(table) for table in ("queries", "qrels", "corpus")):
        return None
    queries = data.read("queries")
    queries = queries.filter(pc.equal(queries["split"], config.split))
    texts = dict(zip(queries["query_id"].to_pylist(), queries["text"].to_pylist(), strict=True))
    judgments: dict[str, dict[str, int]] = {}
    qrels = data.read("qrels")
    qrels = qrels.filter(pc.equal(qrels["split"], config.split))
    for query, doc, grade in zip(*(qrels[c].to_pylist() for c in ("query_id", "doc_id", "relevance")), strict=True):
        judgments.setdefault(query, {})[doc] = grade
    corpus = data.read("corpus", ["doc_id", "text"])
    documents = dict(zip(corpus["doc_id"].to_pylist(), corpus["text"].to_pylist(), strict=True))
    order = {name: stable_id(name) for name in (*texts, *documents)}
    found = validation.sample(
        texts, documents, judgments, max_queries=config.max_queries, max_documents=config.max_documents, order=order
    )
    return found if found.queries else None
