"""Global batches as a pure function of (rows, seed, epoch), independent of the number of ranks and of the machine.

Rows are shuffled by a hash, then batches are filled in that order. Inside one global batch no document is the positive
or negative of a row if it is a known positive of another: such rows are deferred to a later batch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]


def stable_id(text: str) -> int:
    """Hash a string id to a non-negative 63-bit integer (xxh3), the same on every machine."""
    return xxhash.xxh3_64_intdigest(text.encode()) >> 1


def splitmix64(values: Words, salt: str) -> Words:
    """Hash 64-bit values with a salt, by the finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        x = values + np.uint64(stable_id(salt))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def select_rows(rows: Ints, share: Floats | None, seed: int, epoch: int) -> tuple[Ints, Words]:
    """Choose the rows that an epoch trains on, from row numbers [n], and hash the position of each in its order [m].

    A row of share s is taken floor((epoch + 1) s + u) - floor(epoch s + u) times, with u in [0, 1) of hash(seed, row):
    with s = 0.25 every fourth epoch, a fourth of the rows each, with s = 2 twice. Returned are indices into `rows`, and
    the hashes.
    """
    index = np.arange(len(rows), dtype=np.int64)
    position = rows.astype(np.uint64)
    if share is not None:
        start = (splitmix64(position, f"{seed}/share") >> np.uint64(11)).astype(np.float64) / 2**53
        times = np.floor((epoch + 1) * share + start) - np.floor(epoch * share + start)
        index = np.repeat(index, times.astype(np.int64))
        first = np.concatenate([[True], index[1:] != index[:-1]])[: len(index)]
        copy = np.arange(len(index)) - np.maximum.accumulate(np.where(first, np.arange(len(index)), 0))
        position = position[index] + (copy.astype(np.uint64) << np.uint64(40))
    return index, splitmix64(position, f"{seed}/{epoch}")


def epoch_order(rows: Ints, share: Floats | None, seed: int, epoch: int) -> Ints:
    """Shuffle row numbers for an epoch: another order each epoch, the same on every machine."""
    index, position = select_rows(rows, share, seed, epoch)
    shuffled: Ints = rows[index[np.argsort(position, kind="stable")]]
    return shuffled


def select_negatives(rows: Ints, counts: Ints, max_negatives: int, seed: int, epoch: int) -> npt.NDArray[np.bool_]:
    """Mark the negatives of each row that an epoch uses: `max_negatives` of the lowest hash(seed, epoch, row, index).

    `counts` [n] are the negatives that each row has; the mask is over all of them in order.
    """
    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(rows)), counts)
    nth = np.arange(len(owner)) - starts[owner]
    key = splitmix64(
        rows[owner].astype(np.uint64) + (nth.astype(np.uint64) << np.uint64(40)), f"{seed}/{epoch}/negatives"
    )
    ranked = np.lexsort((key, owner))
    mask = np.zeros(len(owner), dtype=bool)
    mask[ranked[nth < max_negatives]] = True  # within a row, indices and ranks are the same numbers
    return mask


@dataclass(frozen=True)
class Ragged:
    """Lists of n rows laid end to end: values [total] and how many each row has, counts [n]."""

    values: Ints
    counts: Ints

    @classmethod
    def from_lists(cls, rows: list[Ints]) -> "Ragged":
        """Lay lists end to end."""
        return cls(np.concatenate([np.zeros(0, np.int64), *rows]), np.array([len(row) for row in rows], np.int64))

    @property
    def owner(self) -> Ints:
        """Row [total] of each value."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def lists(self, rows: Ints) -> list[list[int]]:
        """Values of the given rows."""
        ends = np.cumsum(self.counts)
        starts = (ends - self.counts)[rows].tolist()
        return [self.values[a:b].tolist() for a, b in zip(starts, ends[rows].tolist(), strict=True)]


@dataclass(frozen=True)
class RowKeys:
    """Ids by which batches are composed, of n rows in the order of their epoch: 64 bits, below 0 for none.

    `documents` are those that a row brings into its batch, positive and negatives; `relevant` those that are known to
    be relevant to its query.
    """

    documents: Ragged
    relevant: Ragged

    def __len__(self) -> int:
        return len(self.documents.counts)

    def conflicting(self) -> npt.NDArray[np.bool_]:
        """Boolean [n]: rows that would make a false negative in a batch with some other row, or be one."""
        values = np.concatenate([self.documents.values, self.relevant.values])
        if not len(values):
            return np.zeros(len(self), dtype=bool)
        number = pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)
        cut = len(self.documents.values)
        docs, relevant = (number[:cut], self.documents.owner), (number[cut:], self.relevant.owner)
        docs, relevant = (
            (pair[0][part >= 0], pair[1][part >= 0])
            for pair, part in ((docs, self.documents.values), (relevant, self.relevant.values))
        )
        conflicting = np.zeros(len(self), dtype=bool)
        for (ids, owner), (others, other_owner) in ((docs, relevant), (relevant, docs)):
            first, last = _first_and_last(others, other_owner, int(number.max()) + 1)
            conflicting[owner[((first[ids] != owner) | (last[ids] != owner)) & (last[ids] >= 0)]] = True
        return conflicting


def _first_and_last(ids: Ints, owner: Ints, count: int) -> tuple[Ints, Ints]:
    """First and last row [count] that holds each id; (huge, -1) where none does."""
    first, last = np.full(count, np.iinfo(np.int64).max), np.full(count, -1, dtype=np.int64)
    np.minimum.at(first, ids, owner)
    np.maximum.at(last, ids, owner)
    return first, last


@dataclass(frozen=True)
class ComposedBatches:
    """Global batches of rows, by their index in `RowKeys`, and the rows that are in none.

    `remainder` were too few for a batch; `deferred` would have been false negatives, or made some, in the last ones.
    """

    batches: list[Ints]
    remainder: Ints
    deferred: Ints

    @property
    def left_out(self) -> Ints:
        """Rows that are in no batch."""
        return np.concatenate([self.remainder, self.deferred])


def compose_batches(keys: RowKeys, size: int, *, last: bool = True) -> ComposedBatches:
    """Fill global batches of `size` rows in order; a row that would be or make a false negative is deferred.

    Deferred rows come first in the next batch. With `last` a short batch may end the epoch: below a quarter of `size`
    (and whenever its rows are fewer than 2) it is left out. Rows that conflict with no other are taken in runs.
    """
    filler = _BatchFiller(keys, size)
    batches: list[Ints] = []
    while True:
        batches += filler.runs()
        batch = filler.fill()
        if len(batch) < size:
            break
        batches.append(batch)
    if last and len(batch) >= max(2, size // 4):
        batches.append(batch)
        batch = batch[:0]
    return ComposedBatches(batches, batch, np.array(filler.deferred, dtype=np.int64))


class _BatchFiller:
    """Fills one batch after the other; only conflicting rows are compared one by one."""

    def __init__(self, keys: RowKeys, size: int) -> None:
        conflicting = np.flatnonzero(keys.conflicting())
        self.size, self.count, self.position, self.deferred = size, len(keys), 0, list[int]()
        self.conflicting, self.next = conflicting.tolist(), 0
        self.conflicting.append(self.count)
        self.documents = dict(zip(self.conflicting, keys.documents.lists(conflicting), strict=False))
        self.relevant = dict(zip(self.conflicting, map(_existing, keys.relevant.lists(conflicting)), strict=False))

    def runs(self) -> list[Ints]:
        """Take the full batches before the next conflicting row."""
        count = 0 if self.deferred else (self.conflicting[self.next] - self.position) // self.size
        start, self.position = self.position, self.position + count * self.size
        return list(np.arange(start, self.position, dtype=np.int64).reshape(count, self.size))

    def fill(self) -> Ints:
        """Fill one batch, first from the deferred rows, then from new ones."""
        batch: list[int] = []
        documents, relevant, deferred = set[int](), set[int](), list[int]()

        def try_row(row: int) -> None:
            row_documents, row_relevant = self.documents[row], self.relevant[row]
            if relevant.isdisjoint(row_documents) and documents.isdisjoint(row_relevant):
                batch.append(row)
                documents.update(row_documents)
                relevant.update(row_relevant)
            else:
                deferred.append(row)

        tried = 0
        while tried < len(self.deferred) and len(batch) < self.size:
            try_row(self.deferred[tried])
            tried += 1
        deferred += self.deferred[tried:]
        while len(batch) < self.size and self.position < self.count:
            run = min(self.size - len(batch), self.conflicting[self.next] - self.position)
            batch.extend(range(self.position, self.position + run))
            self.position += run
            if len(batch) < self.size and self.position < self.count:
                try_row(self.position)
                self.position, self.next = self.position + 1, self.next + 1
        self.deferred = deferred
        return np.array(batch, dtype=np.int64)


def _existing(ids: list[int]) -> list[int]:
    return [value for value in ids if value >= 0]


def assign_slots(cost: Ints, slots: int) -> Ints:
    """Assign the rows of m batches with costs [m, B] to slots [m, B] that balance however ranks divide them.

    The costliest row comes first and takes the lightest slot, by the load of the slot and of every rank that it may
    belong to: of W ranks, rank `slot % W` has it. Greedy after Graham 1969 (longest processing time first).
    """
    batches, size = cost.shape
    descending = np.argsort(-cost, axis=1, kind="stable")
    batch, slot = np.arange(batches), np.empty_like(descending)
    number = np.arange(slots)
    ways = [ranks for ranks in range(2, slots + 1) if slots % ranks == 0] or [1]
    shared = sum(ranks * (number[:, None] % ranks == number % ranks).astype(np.int64) for ranks in ways)
    load = np.zeros((batches, slots), dtype=np.int64)
    for nth in range(size):
        row = descending[:, nth]
        lightest = load.argmin(axis=1)
        slot[batch, row] = lightest
        load += cost[batch, row][:, None] * shared[lightest]
    return slot
