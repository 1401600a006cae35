"""Global batches as a pure function of (rows, seed, epoch, step), never of the number of ranks.

Inside one global batch no document is the positive or negative of a row to whose query it is a known positive: such
rows wait for a later batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Training rows in memory: texts, and 64-bit ids for masks and composition.

    `known` [n, K] are the documents known to be relevant to the row's query (its own positive among them), padded
    with -1.
    """

    anchors: list[str]
    positives: list[str]
    negatives: list[list[str]]
    query_id: Ints
    positive_id: Ints
    negative_id: list[Ints]
    known: Ints

    def __len__(self) -> int:
        return len(self.anchors)


def stable_id(text: str) -> int:
    """Hash a string id to a non-negative 63-bit integer (xxh3), the same on every machine."""
    return xxhash.xxh3_64_intdigest(text.encode()) >> 1


def rows_from(table: pa.Table, relevant: dict[str, list[str]], num_negatives: int | None = None) -> Rows:
    """Turn a pairs or triplets table into rows.

    `relevant` maps a query id to every document id known to be relevant to it; at most 64 a row are kept for masks.
    `num_negatives` caps the given negatives of a row.
    """
    anchor_ids, positive_ids = table["anchor_id"].to_pylist(), table["positive_id"].to_pylist()
    given = table["negatives"].to_pylist() if "negatives" in table.column_names else [[] for _ in anchor_ids]
    given = [(row or [])[:num_negatives] for row in given]
    siblings: dict[str, list[str]] = {}
    for anchor, positive in zip(anchor_ids, positive_ids, strict=True):
        siblings.setdefault(anchor, []).append(positive)
    known = [
        list(dict.fromkeys([p, *siblings[a], *relevant.get(a, ())]))[:64]
        for a, p in zip(anchor_ids, positive_ids, strict=True)
    ]
    width = max((len(row) for row in known), default=1)
    padded = np.full((len(known), width), -1, dtype=np.int64)
    for place, row in zip(padded, known, strict=True):
        place[: len(row)] = [stable_id(doc) for doc in row]
    return Rows(
        anchors=table["anchor"].to_pylist(),
        positives=table["positive"].to_pylist(),
        negatives=[[n["text"] for n in row] for row in given],
        query_id=np.array([stable_id(a) for a in anchor_ids], dtype=np.int64),
        positive_id=np.array([stable_id(p) for p in positive_ids], dtype=np.int64),
        negative_id=[np.array([stable_id(n["doc_id"]) for n in row], dtype=np.int64) for row in given],
        known=padded,
    )


def order(rows: Rows, seed: int, epoch: int) -> Ints:
    """Shuffle row numbers by hash(seed, epoch, row): a fresh order each epoch, the same on every machine."""
    with np.errstate(over="ignore"):
        x = np.arange(len(rows), dtype=np.uint64) + np.uint64(stable_id(f"{seed}/{epoch}"))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of splitmix64
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.argsort(x, kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Epoch:
    """The global batches of one epoch: row numbers a step, and the rows that found no batch."""

    batches: list[Ints]
    left_out: Ints


def compose(rows: Rows, size: int, seed: int, epoch: int) -> Epoch:
    """Fill global batches of `size` rows in shuffled order; a row that would be a false negative waits for a later one.

    Only the last batch may be short; below a quarter of `size` (and whenever its rows are fewer than 2) it is left out
    and its rows are reported.
    """
    batches: list[Ints] = []
    waiting: list[int] = []
    fresh = iter(order(rows, seed, epoch).tolist())
    while True:
        batch, waiting = _fill(rows, size, waiting, fresh)
        if len(batch) == size:
            batches.append(np.array(batch, dtype=np.int64))
            continue
        if len(batch) >= max(2, size // 4):
            batches.append(np.array(batch, dtype=np.int64))
            batch = []
        return Epoch(batches, np.array([*batch, *waiting], dtype=np.int64))


def _fill(rows: Rows, size: int, waiting: list[int], fresh: Iterator[int]) -> tuple[list[int], list[int]]:
    """One batch from the waiting rows first, then fresh ones; returns it and the rows that wait still."""
    batch: list[int] = []
    documents: set[int] = set()
    relevant: set[int] = set()
    still: list[int] = []

    def place(row: int) -> None:
        mine = {int(rows.positive_id[row]), *rows.negative_id[row].tolist()}
        known = {int(doc) for doc in rows.known[row] if doc >= 0}
        if mine & relevant or known & documents:
            still.append(row)
            return
        batch.append(row)
        documents.update(mine)
        relevant.update(known)

    for at, row in enumerate(waiting):
        if len(batch) == size:
            return batch, [*still, *waiting[at:]]
        place(row)
    while len(batch) < size:
        row_number = next(fresh, None)
        if row_number is None:
            break
        place(row_number)
    return batch, still


def deal(batch: Ints, cost: Ints, rank: int, size: int) -> Ints:
    """Rows of one rank: the batch by falling cost, dealt back and forth over the ranks, so that work balances."""
    falling = batch[np.argsort(-cost[batch], kind="stable")]
    place = np.arange(len(falling))
    turn = place % (2 * size)
    mine: Ints = falling[np.where(turn < size, turn, 2 * size - 1 - turn) == rank]
    return mine
