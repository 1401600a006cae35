"""Which documents may be negatives: never the same product, a near duplicate or another known positive.

Triplets come from catalogues, judgments, BM25 and rows that state their own negatives. All are staged as candidates by
the text of their anchor and pass one rule: a document is barred when it shares an identity with the anchor, with the
positive or with any other known positive of that anchor. Identities of a document are its id, its near-duplicate
cluster and, of a product, its group (all offers of one product) and its title. A document whose text or title is that
of the anchor is barred too.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.judgments import JudgedQueries
from pipeline.core.schema import TABLES
from pipeline.storage.counts import EXAMPLES, Counts
from pipeline.text.columns import as_array, ids_from_keys, key_column, key_prefixes
from pipeline.text.normalize import key

IDENTITIES = pa.list_(pa.string())
TRIPLET_CANDIDATES = pa.schema(
    [
        *TABLES["triplets"],
        ("identities", pa.list_(IDENTITIES)),  # of each negative
        ("barred", IDENTITIES),  # of the positive, and of the anchor where it is a document
        ("max_negatives", pa.int32()),  # so many stay, the first ones that are allowed
        ("anchor_key", pa.uint64()),
    ]
)
KNOWN_POSITIVES = pa.schema([("anchor_key", pa.uint64()), ("identities", IDENTITIES)])
Row = dict[str, Any]


def document_identities(documents: pa.Table) -> pa.Array:
    """Identities [N] of documents beside their ids."""
    product = as_array(pc.fill_null(documents["product"], False))
    titles = _title_keys(documents["title"])
    return _lists(
        [
            _named("cluster", as_array(documents["cluster"])),
            _named("group", pc.if_else(product, as_array(documents["group"]), None)),
            _named("title", pc.if_else(product, titles, None)),
            _named("reads", titles),
        ]
    )


def id_identity(doc_id: str) -> str:
    """Identity of a document by its id."""
    return f"id {doc_id}"


def reading(text: str) -> str:
    """Identity of everything that has a text, or is titled so; case does not matter."""
    return f"reads {key(text).hex()[:16]}"


def anchor_keys(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """64-bit keys of anchors [N]: equal texts are one anchor, whatever their ids."""
    return key_prefixes(key_column(texts)).astype(np.uint64)


def anchor_key(text: str) -> int:
    """64-bit key of one anchor."""
    return int.from_bytes(key(text)[:8], "little")


def known_positives(judged: JudgedQueries, min_relevance: int) -> pa.Table:
    """Rows of `KNOWN_POSITIVES` for the judged queries: every document that is relevant to them."""
    relevant = pc.greater_equal(judged.judgments["relevance"], min(min_relevance, 1))
    rows = judged.judgments.filter(relevant)
    row = pc.index_in(rows["query_id"], judged.queries["query_id"].combine_chunks())
    keys_of_queries = pa.array(anchor_keys(judged.queries["text"]))
    return pa.table([keys_of_queries.take(row), with_ids(rows)], schema=KNOWN_POSITIVES)


def titled_products(documents: pa.Table) -> pa.Table:
    """Rows of `KNOWN_POSITIVES`: a product is a positive of every anchor that is its title."""
    titled = pc.and_(pc.fill_null(documents["product"], False), pc.greater(pc.utf8_length(documents["title"]), 0))
    rows = documents.filter(pc.fill_null(titled, False)).rename_columns({"id": "doc_id"})
    return pa.table([anchor_keys(rows["title"]), with_ids(rows)], schema=KNOWN_POSITIVES)


def with_ids(rows: pa.Table) -> pa.Array:
    """Identities [N] of the documents of rows, their ids included."""
    own = as_array(rows["identities"])
    lists = _lists([_named("id", as_array(rows["doc_id"]))])
    return lists if not pc.sum(pc.list_value_length(own)).as_py() else _joined(lists, own)


def allowed_triplets(candidates: pa.Table, known: pa.Table, tally: Counts) -> pa.Table:
    """Rows of table `triplets` from all candidates (`TRIPLET_CANDIDATES`) and `KNOWN_POSITIVES` of some anchors.

    Barred negatives are counted, and triplets of which none is left.
    """
    positives: dict[int, set[str]] = {}
    for anchor, names in zip(*(known[name].to_pylist() for name in KNOWN_POSITIVES.names), strict=True):
        positives.setdefault(anchor, set()).update(names)
    order = [(name, "ascending") for name in ("anchor_id", "positive_id", "reason")]
    rows = []
    for row in candidates.sort_by(order).to_pylist():
        barred = {*row.pop("barred"), *positives.get(row.pop("anchor_key"), ()), reading(row["anchor"])}
        negatives = zip(row["negatives"], row.pop("identities"), strict=True)
        row["negatives"] = _allowed(row, negatives, barred, row.pop("max_negatives"), tally)
        if row["negatives"]:
            rows.append(row)
        else:
            tally.counts["triplets_without_negative"] += 1
    return pa.Table.from_pylist(rows, schema=TABLES["triplets"])


def _allowed(
    row: Row, negatives: Iterable[tuple[Row, list[str]]], barred: set[str], count: int, tally: Counts
) -> list[Row]:
    """The first `count` negatives that are not barred."""
    allowed: list[Row] = []
    for negative, names in negatives:
        if len(allowed) == count:
            break
        if barred.isdisjoint([id_identity(negative["doc_id"]), reading(negative["text"]), *names]):
            allowed.append(negative)
        else:
            bar(row["anchor_id"], negative["doc_id"], tally)
    return allowed


def bar(anchor_id: str, doc_id: str, tally: Counts) -> None:
    """Count a document that is not taken as a negative."""
    new = len(tally.examples.get("barred", ())) < EXAMPLES
    tally.drop("barred", 1, f"{doc_id} as a negative of {anchor_id}" if new else None)


def as_candidates(rows: Sequence[Row]) -> pa.Table:
    """Rows of `TRIPLET_CANDIDATES` from triplets with `identities`, `barred` and `max_negatives`."""
    names = [name for name in TRIPLET_CANDIDATES.names if name != "anchor_key"]
    table = pa.Table.from_pylist(list(rows), schema=pa.schema([TRIPLET_CANDIDATES.field(name) for name in names]))
    return table.append_column(TRIPLET_CANDIDATES.field("anchor_key"), pa.array(anchor_keys(table["anchor"])))


def _title_keys(titles: pa.ChunkedArray) -> pa.Array:
    """Keys [N] of titles as text; null where there is no title."""
    some = pc.fill_null(pc.not_equal(as_array(titles), ""), False)
    if not pc.any(some).as_py():
        return pa.nulls(len(titles), pa.string())
    names = pc.utf8_slice_codeunits(ids_from_keys(key_column(pc.fill_null(titles, "")), "k"), 2)
    return pc.if_else(some, names, None)


def _named(kind: str, values: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(kind, values.cast(pa.string()), " ")


def _lists(columns: list[pa.Array]) -> pa.Array:
    """Lists [N] of those values of columns [N] that are not null."""
    valid = np.stack([column.is_valid().to_numpy(zero_copy_only=False) for column in columns], axis=1)
    row, column = np.nonzero(valid)
    values = pa.concat_arrays(columns).take(pa.array(column * len(valid) + row))
    offsets = np.concatenate([[0], np.cumsum(valid.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _joined(left: pa.Array, right: pa.Array) -> pa.Array:
    """Lists [N] of the values of two lists each."""
    pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
    return pa.array([[*one, *other] for one, other in pairs], IDENTITIES)
