"""Global batches as a pure function of (rows, seed, epoch, step), never of the number of ranks.

Inside one global batch no document is the positive or negative of a row to whose query it is a known positive: such
rows wait for a later batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from training.guide import Guide

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Training rows in memory: texts, 64-bit ids for masks and composition, and what graded losses need.

    `known` [n, K] are the documents known to be relevant to the row's query (its own positive among them), padded
    with -1; `known_cluster` [n, K] their near-duplicate clusters, -1 for none. Lists hold one array a row.
    """

    anchors: list[str]
    positives: list[str]
    negatives: list[list[str]]
    query_id: Ints
    positive_id: Ints
    negative_id: list[Ints]
    known: Ints
    label: Ints | None = None  # [n] class of the row
    score: Floats | None = None  # [n] similarity or judged relevance of anchor and positive
    weight: Floats | None = None  # [n]
    teacher: Floats | None = None  # [n] a teacher's score of anchor and positive, NaN for none
    negative_score: list[Floats] | None = None
    negative_teacher: list[Floats] | None = None
    positive_cluster: Ints | None = None  # [n]
    negative_cluster: list[Ints] | None = None
    known_cluster: Ints | None = None
    share: Floats | None = None  # [n] how often the row is wanted in an epoch, by its source; once where None
    guide: Guide | None = None

    def __len__(self) -> int:
        return len(self.anchors)

    def beside(self, mine: Ints) -> dict[str, Ints]:
        """What travels with the texts of rows `mine` [m], by the names that a gather takes; floats as bits of float64.

        `negative.row` is the place in `mine` of the row that each negative belongs to.
        """
        columns: dict[str, Ints | Floats | None] = {
            "query.id": self.query_id,
            "query.known": self.known,
            "query.cluster": self.known_cluster,
            "query.label": self.label,
            "query.score": self.score,
            "query.weight": self.weight,
            "query.teacher": self.teacher,
            "positive.id": self.positive_id,
            "positive.cluster": self.positive_cluster,
        }
        found = {name: _bits(values[mine]) for name, values in columns.items() if values is not None}
        lists: dict[str, list[Ints] | list[Floats] | None] = {
            "negative.id": self.negative_id,
            "negative.cluster": self.negative_cluster,
            "negative.score": self.negative_score,
            "negative.teacher": self.negative_teacher,
        }
        for name, rows in lists.items():
            if rows is not None:
                kind = np.int64 if name in ("negative.id", "negative.cluster") else np.float64
                found[name] = _bits(np.concatenate([np.zeros(0, kind), *(rows[row] for row in mine)]))
        counts = [len(self.negatives[row]) for row in mine]
        found |= self.guide.beside(mine) if self.guide else {}
        return found | {"negative.row": np.repeat(np.arange(len(mine), dtype=np.int64), counts)}


def _bits(values: Ints | Floats) -> Ints:
    """Ids as they are, numbers as the bits of their float64, so that all travel in one collective."""
    return np.ascontiguousarray(values).view(np.int64)


def stable_id(text: str) -> int:
    """Hash a string id to a non-negative 63-bit integer (xxh3), the same on every machine."""
    return xxhash.xxh3_64_intdigest(text.encode()) >> 1


def rows_from(
    table: pa.Table,
    relevant: dict[str, list[str]],
    num_negatives: int | None = None,
    clusters: Mapping[str, str] | None = None,
    mix: Mapping[str, float] | None = None,
) -> Rows:
    """Turn a table of pairs, triplets, judged or labelled rows into rows.

    `relevant` maps a query id to every document id known to be relevant to it; at most 64 a row are kept for masks,
    with the documents that have the anchor's own text first: nothing is a negative of itself.
    Where the table has a column `right`, a row whose right is false says of its document only what its score says.
    `num_negatives` caps the given negatives of a row; `clusters` maps a document id to its near-duplicate cluster;
    `mix` says how often an epoch takes the rows of a source.
    Further columns that count: relevance, grades and teacher (of the positive), negatives[].score (the teacher's),
    label, weight.
    """
    anchor_ids, positive_ids = table["anchor_id"].to_pylist(), table["positive_id"].to_pylist()
    given = [(row or [])[:num_negatives] for row in _optional(table, "negatives") or [None] * len(table)]
    negative_ids = [[n["doc_id"] for n in row] for row in given]
    known = _known(anchor_ids, positive_ids, _optional(table, "right"), relevant)
    known = [
        list(dict.fromkeys([*row[:1], *own, *row]))[:64]
        for row, own in zip(known, _of_own_text(table, given), strict=True)
    ]
    return Rows(
        anchors=table["anchor"].to_pylist(),
        positives=table["positive"].to_pylist(),
        negatives=[[n["text"] for n in row] for row in given],
        query_id=_ids(anchor_ids),
        positive_id=_ids(positive_ids),
        negative_id=[_ids(row) for row in negative_ids],
        known=_padded(known),
        label=_ids([str(one) for one in table["label"].to_pylist()]) if "label" in table.column_names else None,
        score=_numbers(_optional(table, "relevance")),
        weight=_numbers(_optional(table, "weight"), missing=1.0),
        teacher=_numbers(_optional(table, "teacher")),
        negative_score=_lists(_optional(table, "grades"), negative_ids, 0.0),
        negative_teacher=_lists([[n.get("score") for n in row] for row in given], negative_ids, np.nan),
        positive_cluster=_ids([clusters.get(doc) for doc in positive_ids]) if clusters else None,
        negative_cluster=[_ids([clusters.get(doc) for doc in row]) for row in negative_ids] if clusters else None,
        known_cluster=_padded([[clusters.get(doc) for doc in row] for row in known]) if clusters else None,
        share=np.array([mix.get(source, 1.0) for source in table["source"].to_pylist()]) if mix else None,
    )


def _known(
    anchors: list[str], positives: list[str], right: list[bool] | None, relevant: dict[str, list[str]]
) -> list[list[str]]:
    """Documents known to be relevant to each row's query, its own positive first."""
    counts = [True] * len(anchors) if right is None else [one is not False for one in right]
    siblings: dict[str, list[str]] = {}
    for anchor, positive, counted in zip(anchors, positives, counts, strict=True):
        if counted:
            siblings.setdefault(anchor, []).append(positive)
    return [
        list(dict.fromkeys([*([p] if counted else []), *siblings.get(a, ()), *relevant.get(a, ())]))
        for a, p, counted in zip(anchors, positives, counts, strict=True)
    ]


def _of_own_text(table: pa.Table, given: list[list[dict[str, Any]]]) -> list[list[str]]:
    """Documents of the table whose text is that of the row's anchor."""
    anchors = table["anchor"].to_pylist()
    own: dict[str, dict[str, None]] = {text: {} for text in anchors}
    for doc, text in zip(table["positive_id"].to_pylist(), table["positive"].to_pylist(), strict=True):
        if text in own:
            own[text][doc] = None
    for negative in (one for row in given for one in row):
        if negative["text"] in own:
            own[negative["text"]][negative["doc_id"]] = None
    return [list(own[text]) for text in anchors]


def _optional(table: pa.Table, column: str) -> list[Any] | None:
    return table[column].to_pylist() if column in table.column_names else None


def _ids(names: Sequence[str | None]) -> Ints:
    return np.array([-1 if name is None else stable_id(name) for name in names], dtype=np.int64)


def _padded(rows: Sequence[Sequence[str | None]]) -> Ints:
    """Ids of ragged rows as a matrix, padded with -1."""
    padded = np.full((len(rows), max([1, *map(len, rows)])), -1, dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = _ids(row)
    return padded


def _numbers(values: Sequence[float | None] | None, missing: float = np.nan) -> Floats | None:
    """Numbers with NaN, or another one, for what is missing; None where nothing is there."""
    if values is None or all(value is None for value in values):
        return None
    return np.array([missing if value is None else value for value in values], dtype=np.float64)


def _lists(values: list[Any] | None, like: list[list[str]], default: float) -> list[Floats] | None:
    """Numbers of every row's negatives, `default` for what is missing; None where nothing is there."""
    if values is None or all(value is None for row in values for value in row or ()):
        return None
    lists = [
        [default if value is None else value for value in (row or [None] * len(names))][: len(names)]
        for row, names in zip(values, like, strict=True)
    ]
    return [np.array(row, dtype=np.float64) for row in lists]


def order(rows: Rows, seed: int, epoch: int) -> Ints:
    """Shuffle row numbers by hash(seed, epoch, row): a fresh order each epoch, the same on every machine.

    A row of share s is taken floor((epoch + 1) s + u) - floor(epoch s + u) times, with u in [0, 1) of hash(seed, row):
    with s = 0.25 every fourth epoch, a fourth of the rows each, with s = 2 twice.
    """
    numbers = np.arange(len(rows), dtype=np.int64)
    place = numbers.astype(np.uint64)
    if rows.share is not None:
        start = (_spread(place, f"{seed}/share") >> np.uint64(11)).astype(np.float64) / 2**53
        times = np.floor((epoch + 1) * rows.share + start) - np.floor(epoch * rows.share + start)
        numbers = np.repeat(numbers, times.astype(np.int64))
        first = np.concatenate([[True], numbers[1:] != numbers[:-1]])[: len(numbers)]
        copy = np.arange(len(numbers)) - np.maximum.accumulate(np.where(first, np.arange(len(numbers)), 0))
        place = numbers.astype(np.uint64) + (copy.astype(np.uint64) << np.uint64(40))
    shuffled: Ints = numbers[np.argsort(_spread(place, f"{seed}/{epoch}"), kind="stable")]
    return shuffled


def _spread(values: npt.NDArray[np.uint64], salt: str) -> npt.NDArray[np.uint64]:
    """Hash 64-bit values: the finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        x = values + np.uint64(stable_id(salt))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Epoch:
    """The global batches of one epoch: row numbers a step, and the rows that found no batch."""

    batches: list[Ints]
    left_out: Ints


def compose(rows: Rows, size: int, seed: int, epoch: int, among: slice | None = None) -> Epoch:
    """Fill global batches of `size` rows in shuffled order; a row that would be a false negative waits for a later one.

    Only the last batch may be short; below a quarter of `size` (and whenever its rows are fewer than 2) it is left out
    and its rows are reported. `among` takes only the rows from its start to its stop.
    """
    batches: list[Ints] = []
    waiting: list[int] = []
    shuffled = order(rows, seed, epoch)
    if among is not None:
        shuffled = shuffled[(shuffled >= among.start) & (shuffled < among.stop)]
    fresh = iter(shuffled.tolist())
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
