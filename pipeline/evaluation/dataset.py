"""What models are evaluated on: queries with judgments, triplets, and pairs with gold scores, of one split."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import read_parquet

Document = tuple[str | None, str]  # id, text
Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # indices of queries [M], rows of documents [M]


@dataclass(frozen=True)
class Triplet:
    """An anchor (its index among the texts), a positive document and negative ones."""

    anchor: int
    positive: Document
    negatives: list[Document]


@dataclass
class EvalDataset:
    """The rows of one split; `texts` holds the queries first, in order, then the other texts encoded as queries.

    `excluded` is the (query, corpus row) pairs that are not ranked, since the document is the query itself.
    """

    query_ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    triplets: list[Triplet] = field(default_factory=list)
    scored_pairs: list[tuple[int, int, float]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    excluded: Pairs = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    _index: dict[str, int] = field(default_factory=dict)

    def index_of(self, text: str) -> int:
        """Index of a text among the query-side texts, to which it is added when it is new."""
        index = self._index.setdefault(text, len(self.texts))
        if index == len(self.texts):
            self.texts.append(text)
        return index


def read_dataset(data: Artifact, split: str, max_queries: int | None, max_triplets: int) -> EvalDataset:
    """Read one split of a build artifact: at most so many queries and triplets, and all scored pairs.

    Raises UserError naming the splits of the artifact when this one has nothing to evaluate.
    """
    dataset = read_queries(data, split, max_queries)
    add_triplets(dataset, _split_rows(data, "triplets", split, max_triplets))
    add_scored_pairs(dataset, _split_rows(data, "labelled", split))
    if not (dataset.query_ids or dataset.triplets or dataset.scored_pairs):
        raise UserError(f"split '{split}' of {data.path} {_why_empty(data, split, dataset)}")
    return dataset


def read_queries(data: Artifact, split: str, max_queries: int | None) -> EvalDataset:
    """Read the judged queries of a split alone; none where it has none."""
    dataset = EvalDataset()
    add_queries(dataset, _split_rows(data, "queries", split), _split_rows(data, "qrels", split), max_queries)
    return dataset


def _split_rows(data: Artifact, table: str, split: str, limit: int | None = None) -> pa.Table | None:
    """Rows of one split, file by file, at most `limit`; None where the artifact lacks the table."""
    if not data.has(table):
        return None
    parts, rows = [], 0
    for name in data.files(table):
        file_rows = read_parquet(name, table)
        of_split = file_rows.filter(pc.equal(file_rows["split"], split))
        parts.append(of_split if limit is None else of_split.slice(0, limit - rows))
        rows += len(parts[-1])
        if limit is not None and rows >= limit:
            break
    return pa.concat_tables(parts)


def _why_empty(data: Artifact, split: str, dataset: EvalDataset) -> str:
    without = dataset.skipped.get("query_without_relevant_document", 0)
    if without:
        return f"has {without} queries, none with a relevant document; there is nothing to measure"
    splits: set[str] = set()
    for table in ("queries", "triplets", "labelled"):
        if data.has(table):
            splits.update(str(name) for name in data.read(table, ["split"])["split"].unique().to_pylist())
    contents = f"holds {', '.join(sorted(splits))}" if splits else "has no queries, triplets or labelled pairs"
    return f"has no queries; the artifact {contents}; set `split`"


def add_queries(dataset: EvalDataset, queries: pa.Table | None, qrels: pa.Table | None, limit: int | None) -> None:
    """Add the first `limit` queries that have a relevant document, in table order; count the others."""
    if queries is None or qrels is None:
        return
    judgments: dict[str, dict[str, int]] = {}
    columns = (qrels[name].to_pylist() for name in ("query_id", "doc_id", "relevance"))
    for query, doc, grade in zip(*columns, strict=True):
        judgments.setdefault(query, {})[doc] = grade
    without = beyond = 0
    for query, text in zip(queries["query_id"].to_pylist(), queries["text"].to_pylist(), strict=True):
        if not any(grade > 0 for grade in judgments.get(query, {}).values()):
            without += 1
        elif limit is not None and len(dataset.query_ids) >= limit:
            beyond += 1
        else:
            dataset.query_ids.append(query)
            dataset.texts.append(text)
            dataset.qrels[query] = judgments[query]
    dataset._index.update({text: index for index, text in reversed(list(enumerate(dataset.texts)))})
    count_skipped(dataset, query_without_relevant_document=without, query_beyond_max_queries=beyond)


def drop_queries(dataset: EvalDataset, queries: Collection[str]) -> None:
    """Take queries out, with their judgments; texts that triplets or pairs need stay, at another index."""
    if not queries:
        return
    old_texts, remaining = dataset.texts, [query for query in dataset.query_ids if query not in queries]
    text_of = dict(zip(dataset.query_ids, old_texts, strict=False))
    dataset.query_ids, dataset.texts, dataset._index = remaining, [text_of[query] for query in remaining], {}
    dataset.qrels = {query: dataset.qrels[query] for query in remaining}
    dataset._index.update({text: index for index, text in reversed(list(enumerate(dataset.texts)))})
    dataset.triplets = [
        replace(triplet, anchor=dataset.index_of(old_texts[triplet.anchor])) for triplet in dataset.triplets
    ]
    dataset.scored_pairs = [
        (dataset.index_of(old_texts[first]), dataset.index_of(old_texts[second]), score)
        for first, second, score in dataset.scored_pairs
    ]


def add_triplets(dataset: EvalDataset, triplets: pa.Table | None) -> None:
    """Add triplets that have a negative; count the others."""
    if triplets is None:
        return
    without = 0
    for row in triplets.select(["anchor", "positive_id", "positive", "negatives"]).to_pylist():
        negatives = [(item["doc_id"], item["text"]) for item in row["negatives"] or [] if item["text"]]
        if not negatives:
            without += 1
            continue
        anchor = dataset.index_of(row["anchor"])
        dataset.triplets.append(Triplet(anchor, (row["positive_id"], row["positive"]), negatives))
    count_skipped(dataset, triplet_without_negative=without)


def add_scored_pairs(dataset: EvalDataset, pairs: pa.Table | None) -> None:
    """Add pairs with a gold score; both texts are encoded as queries, since neither is a document."""
    if pairs is None:
        return
    without = 0
    for left, right, score in zip(*(pairs[name].to_pylist() for name in ("left", "right", "score")), strict=True):
        if score is None:
            without += 1
        else:
            dataset.scored_pairs.append((dataset.index_of(left), dataset.index_of(right), score))
    count_skipped(dataset, labelled_pair_without_score=without)


def count_skipped(dataset: EvalDataset, **reasons: int) -> None:
    """Note how many rows were left out, by reason."""
    dataset.skipped.update({reason: count for reason, count in reasons.items() if count})
