"""The validation sample of a run: drawn in streamed passes over the data, kept in a file that every worker reads."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage import shards
from pipeline.storage.artifact import Artifact, digest
from pipeline.storage.files import filesystem, join, open_parquet, read_json, write_json
from pipeline.text.columns import hash64_column
from pipeline.text.normalize import stable_id
from training.loop.validation import (
    RetrievalValidation,
    SimilarityValidation,
    ValidationConfig,
    answerable_queries,
    sample_corpus,
)

FILE = "validation.json"
MORE_QUERIES = 4  # times as many queries are tried where too few of them are judged
Rows = npt.NDArray[np.int64]
Sample = RetrievalValidation | SimilarityValidation | None


def save_validation(log: str, data: Artifact, config: ValidationConfig) -> None:
    """Draw the sample once for a run, into its directory `log`."""
    path = join(log, FILE)
    if _read(path, data, config) is None:
        write_json(path, {"key": _key(data, config), "sample": _to_json(load_validation(data, config))})


def open_validation(log: str, data: Artifact, config: ValidationConfig) -> Sample:
    """Return the sample of a run from its file; one that was not drawn, or of other data or settings, is drawn now."""
    content = _read(join(log, FILE), data, config)
    return load_validation(data, config) if content is None else _from_json(content["sample"])


def load_validation(data: Artifact, config: ValidationConfig) -> Sample:
    """Draw the sample; None when the split has no judged query, or for spearman no labelled pair.

    What `sample_corpus` would draw of all queries and documents is drawn of those with the least hashes, and of the
    judged documents: neither the corpus nor the split is ever in memory.
    """
    if config.metric_name(data) == "spearman":
        return _load_similarity(data, config)
    if not all(data.has(table) for table in ("queries", "qrels", "corpus")):
        return None
    count, total = config.max_queries * 2, data.rows("queries")
    while True:
        queries = _read_queries(data, config.split, count)
        judgments = _read_judgments(data, config.split, list(queries))
        documents = _read_documents(data, judgments, 2 * config.max_documents)
        if count >= total or len(answerable_queries(queries, documents, judgments)) >= config.max_queries:
            break
        count *= MORE_QUERIES
    order = {name: stable_id(name) for name in (*queries, *documents)}
    bounds = {"max_queries": config.max_queries, "max_documents": config.max_documents}
    sample = sample_corpus(queries, documents, judgments, **bounds, order=order)
    return sample if sample.queries else None


def _read_queries(data: Artifact, split: str, count: int) -> dict[str, str]:
    """Texts of the queries of a split that have the least hashes, by id in the order of the table."""

    def of_split(batch: pa.Table) -> pa.Array:
        return pc.equal(batch["split"], split)

    files = data.files("queries")
    rows = first_by_hash(files, ["query_id", "split"], lambda batch: batch["query_id"], of_split, count)
    table = take_rows(files, rows, ["query_id", "text"])
    return dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def _read_judgments(data: Artifact, split: str, queries: list[str]) -> dict[str, dict[str, int]]:
    """Judgments of some queries of a split, in the order of the table."""
    judgments: dict[str, dict[str, int]] = {}
    names = pa.array(queries, pa.string())
    for batch in shards.read_batches(data.files("qrels"), ["query_id", "doc_id", "relevance", "split"]):
        rows = batch.filter(pc.and_(pc.equal(batch["split"], split), pc.is_in(batch["query_id"], names)))
        columns = (rows[name].to_pylist() for name in ("query_id", "doc_id", "relevance"))
        for query, doc, grade in zip(*columns, strict=True):
            judgments.setdefault(query, {})[doc] = grade
    return judgments


def _read_documents(data: Artifact, judgments: dict[str, dict[str, int]], count: int) -> dict[str, str]:
    """Texts of the judged documents and of those with the `count` least hashes, by id in the order of the table."""
    files = data.files("corpus")
    judged = pa.array(sorted({doc for grades in judgments.values() for doc in grades}), pa.string())
    matching, first = [np.zeros(0, np.int64)], 0
    for batch in shards.read_batches(files, ["doc_id"]):
        matching.append(first + np.flatnonzero(pc.is_in(batch["doc_id"], judged).to_numpy(zero_copy_only=False)))
        first += len(batch)
    others = first_by_hash(files, ["doc_id"], lambda batch: batch["doc_id"], None, count)
    table = take_rows(files, np.unique(np.concatenate([*matching, others])), ["doc_id", "text"])
    return dict(zip(table["doc_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def _load_similarity(data: Artifact, config: ValidationConfig) -> SimilarityValidation | None:
    if not data.has("labelled"):
        return None

    def names(batch: pa.Table) -> pa.Array:
        return pc.binary_join_element_wise(batch["left_id"], batch["right_id"], "\t")

    def usable(batch: pa.Table) -> pa.Array:
        return pc.and_(pc.equal(batch["split"], config.split), pc.is_valid(batch["score"]))

    files, columns = data.files("labelled"), ["left_id", "right_id", "split", "score"]
    rows = first_by_hash(files, columns, names, usable, config.max_pairs)
    pairs = take_rows(files, rows, ["left_id", "right_id", "left", "right", "score"])
    pairs = pairs.take(pa.array(np.argsort(hash64_column(names(pairs)) >> np.uint64(1), kind="stable")))
    sample = SimilarityValidation(*(pairs[name].to_pylist() for name in ("left", "right", "score")))
    return sample if len(sample.gold) else None


def first_by_hash(
    files: Sequence[str],
    columns: Sequence[str],
    names: Callable[[pa.Table], pa.Array],
    usable: Callable[[pa.Table], pa.Array] | None,
    count: int,
) -> Rows:
    """Numbers of the usable rows whose names have the `count` least hashes (`stable_id`), rising; memory is `count`."""
    rows, hashes, first = np.zeros(0, np.int64), np.zeros(0, np.uint64), 0
    for batch in shards.read_batches(files, columns):
        index = np.arange(len(batch))
        if usable is not None:
            index = np.flatnonzero(pc.fill_null(usable(batch), False).to_numpy(zero_copy_only=False))
        rows = np.concatenate([rows, first + index])
        hashes = np.concatenate([hashes, hash64_column(names(batch.take(pa.array(index)))) >> np.uint64(1)])
        least = np.sort(np.argsort(hashes, kind="stable")[:count])
        rows, hashes, first = rows[least], hashes[least], first + len(batch)
    return rows


def take_rows(files: Sequence[str], rows: Rows, columns: Sequence[str]) -> pa.Table:
    """Columns of numbered rows, rising, of all files; row groups without any of them are not read."""
    parts, first = [], 0
    for path in files:
        with open_parquet(path) as file:
            parts.append(file.schema_arrow.empty_table().select(list(columns)))
            for group in range(file.metadata.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                low, high = np.searchsorted(rows, [first, last])
                if low < high:
                    table = file.read_row_group(group, columns=list(columns))
                    parts.append(table.take(pa.array(rows[low:high] - first)))
                first = last
    return pa.concat_tables(parts)


def _key(data: Artifact, config: ValidationConfig) -> str:
    sizes = ("split", "max_queries", "max_documents", "max_pairs", "metric")
    return digest([data.manifest.fingerprint, {name: getattr(config, name) for name in sizes}])


def _read(path: str, data: Artifact, config: ValidationConfig) -> dict[str, Any] | None:
    """Content of the file, if it is of this data and these settings."""
    fs, name = filesystem(path)
    content = read_json(path) if fs.exists(name) else {}
    return content if content.get("key") == _key(data, config) else None


def _to_json(sample: Sample) -> dict[str, Any] | None:
    if sample is None:
        return None
    if isinstance(sample, SimilarityValidation):
        return {"left": list(sample.left), "right": list(sample.right), "gold": list(sample.gold)}
    texts = {name: dict(getattr(sample, name)) for name in ("queries", "documents", "judgments")}
    barred = [] if sample.barred is None else [column.tolist() for column in sample.barred]
    return {**texts, "barred": barred, "note": sample.note}


def _from_json(content: dict[str, Any] | None) -> Sample:
    if content is None:
        return None
    if "gold" in content:
        return SimilarityValidation(content["left"], content["right"], content["gold"])
    query, document = (np.array(column, np.int64) for column in content.pop("barred"))
    return RetrievalValidation(**content, barred=(query, document))
