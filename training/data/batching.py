"""Global batches as a pure function of (rows, seed, epoch), independent of the number of ranks and of the machine.

Rows are shuffled by a hash, then batches are filled in that order. A row with a document that is a known positive of
another row of the batch is deferred to a later one, as long as enough others are there. Those that must share a batch
are masked against each other by id in the loss, so that every row trains.
"""

import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.ranges import expand_ranges
from pipeline.text.normalize import stable_id

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

DEFERRED_BATCHES = 4  # rows of so many batches may wait for a batch without a conflict


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

    def take(self, rows: Ints) -> "Ragged":
        """Lists of the given rows, end to end."""
        counts = self.counts[rows]
        starts = (np.cumsum(self.counts) - self.counts)[rows]
        return Ragged(self.values[expand_ranges(starts, counts)], counts)


@dataclass(frozen=True)
class RowKeys:
    """Ids by which batches are composed, of n rows in the order of their epoch: 64 bits, below 0 for none.

    `documents` are those that a row brings into its batch, positive and negatives; `query` [n] is the query of each
    row, an index into `relevant`: the documents that are known to be relevant to each of the Q queries.
    """

    documents: Ragged
    query: Ints
    relevant: Ragged

    def __len__(self) -> int:
        return len(self.query)

    def shared(self) -> "RowKeys":
        """Keep what makes conflicts, under dense ids: of a query the documents that rows of other queries bring.

        A query of several rows is itself a document that each of them brings, and that is relevant to it: its rows
        know each other, however many documents are relevant to it.
        """
        number, relevant, documents = _dense(self.documents.values, self.relevant.values)
        existing = number >= 0
        first, last = _first_and_last(number[existing], self.query[self.documents.owner][existing], documents)
        owner = self.relevant.owner
        elsewhere = (relevant >= 0) & ((first[relevant] != owner) | (last[relevant] != owner))
        wanted = np.zeros(documents, dtype=bool)
        wanted[relevant[elsewhere]] = True
        existing[existing] = wanted[number[existing]]
        several = np.bincount(self.query, minlength=len(self.relevant.counts)) > 1
        rows, queries = np.flatnonzero(several[self.query]), np.flatnonzero(several)
        return RowKeys(
            _ragged(
                np.concatenate([self.documents.owner[existing], rows]),
                np.concatenate([number[existing], documents + self.query[rows]]),
                len(self),
            ),
            self.query,
            _ragged(
                np.concatenate([owner[elsewhere], queries]),
                np.concatenate([relevant[elsewhere], documents + queries]),
                len(several),
            ),
        )

    def conflicting(self) -> npt.NDArray[np.bool_]:
        """Boolean [n], of `shared` keys: rows that would make a false negative in some batch, or be one."""
        conflicting: npt.NDArray[np.bool_] = (self.documents.counts > 0) | (self.relevant.counts[self.query] > 0)
        return conflicting


def _dense(documents: Ints, relevant: Ints) -> tuple[Ints, Ints, int]:
    """Number documents and relevant ids among the distinct documents, -1 for others; and say how many these are."""
    encoded = pa.array(documents).dictionary_encode()
    number: Ints = np.where(documents >= 0, encoded.indices.to_numpy().astype(np.int64), -1)
    found = pc.fill_null(pc.index_in(pa.array(relevant), value_set=encoded.dictionary), -1)
    return number, np.where(relevant >= 0, found.to_numpy().astype(np.int64), -1), len(encoded.dictionary)


def _ragged(owner: Ints, values: Ints, rows: int) -> Ragged:
    """Lists of `rows` rows, of values in any order of their owners."""
    return Ragged(values[np.argsort(owner, kind="stable")], np.bincount(owner, minlength=rows))


def _first_and_last(ids: Ints, owner: Ints, count: int) -> tuple[Ints, Ints]:
    """First and last owner [count] of each id; (huge, -1) where it has none."""
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
    """Fill global batches of `size` rows in order; rows that know each other are put as far apart as that allows.

    A row that would be or make a false negative is deferred, and deferred rows come first in the next batch. Where so
    many wait that batches could not be filled otherwise (every answer repeats, say), those that conflict least with a
    batch fill it: the loss masks them against each other by id, and every row trains. With `last` a short batch may end
    the epoch: below a quarter of `size` (and whenever its rows are fewer than 2) it is left out.
    """
    filler = _BatchFiller(keys, size)
    batches: list[Ints] = []
    while True:
        batches += filler.runs()
        batch = filler.fill(to_the_end=last)
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
        keys = keys.shared()
        conflicting = np.flatnonzero(keys.conflicting())
        queries = np.unique(keys.query[conflicting])
        relevant = dict(zip(queries.tolist(), map(frozenset, keys.relevant.lists(queries)), strict=True))
        self.size, self.count, self.position, self.deferred = size, len(keys), 0, list[int]()
        self.conflicting, self.next = conflicting.tolist(), 0
        known = [relevant[query] for query in keys.query[conflicting].tolist()]
        brought, quota = keys.documents.lists(conflicting), _quotas(keys, size)[conflicting].tolist()
        self.keys = dict(zip(self.conflicting, zip(brought, known, quota, strict=True), strict=True))
        self.conflicting.append(self.count)

    def runs(self) -> list[Ints]:
        """Take the full batches before the next conflicting row."""
        count = 0 if self.deferred else (self.conflicting[self.next] - self.position) // self.size
        start, self.position = self.position, self.position + count * self.size
        return list(np.arange(start, self.position, dtype=np.int64).reshape(count, self.size))

    def fill(self, *, to_the_end: bool) -> Ints:
        """Fill one batch: from the deferred rows, then from new ones, then with the deferred that conflict least."""
        batch = _Batch(self.size)
        self.deferred = self._add(batch, self.deferred, 0)[0]
        while not batch.full and self.position < self.count and len(self.deferred) < DEFERRED_BATCHES * self.size:
            run = min(self.size - len(batch.rows), self.conflicting[self.next] - self.position)
            batch.extend(range(self.position, self.position + run))
            self.position += run
            if not batch.full and self.position < self.count:
                self.deferred += self._add(batch, [self.position], 0)[0]
                self.position, self.next = self.position + 1, self.next + 1
        conflicts = 1
        while not batch.full and self.deferred and (to_the_end or self.position < self.count):
            self.deferred, fewest = self._add(batch, self.deferred, conflicts)
            conflicts = max(fewest, conflicts + conflicts // 2)
        return np.array(batch.rows, dtype=np.int64)

    def _add(self, batch: "_Batch", rows: list[int], allowed: int) -> tuple[list[int], int]:
        """Add rows with at most `allowed` conflicts, or their quota; returns the others and the fewest that one has."""
        others, fewest = list[int](), sys.maxsize
        for number, row in enumerate(rows):
            if batch.full:
                return others + rows[number:], fewest
            documents, relevant, quota = self.keys[row]
            most = quota if quota > allowed else allowed
            conflicts = batch.conflicts(documents, relevant, most)
            if conflicts <= most:
                batch.add(row, documents, relevant)
            else:
                others.append(row)
                fewest = conflicts if conflicts < fewest else fewest
        return others, fewest


class _Batch:
    """A batch in the making, with how often each document is in it and how often one is relevant to a query of it."""

    def __init__(self, size: int) -> None:
        self.size, self.rows, self.full = size, list[int](), False
        self.documents, self.relevant = dict[int, int](), dict[int, int]()

    def extend(self, rows: range) -> None:
        """Take rows that conflict with none."""
        self.rows.extend(rows)
        self.full = len(self.rows) >= self.size

    def conflicts(self, documents: list[int], relevant: frozenset[int], allowed: int) -> int:
        """How many of its rows know one of the documents, or have one that is relevant to the row's query.

        Only whether there are any is looked at where none is `allowed`.
        """
        if not allowed:
            for document in documents:
                if document in self.relevant:
                    return 1
            return 0 if self.documents.keys().isdisjoint(relevant) else 1
        others = self.documents.keys() & relevant
        return sum(self.relevant.get(d, 0) for d in documents) + sum(self.documents[r] for r in others)

    def add(self, row: int, documents: list[int], relevant: frozenset[int]) -> None:
        """Take a row."""
        self.rows.append(row)
        self.full = len(self.rows) >= self.size
        for counts, ids in ((self.documents, documents), (self.relevant, relevant)):
            for number in ids:
                counts[number] = counts.get(number, 0) + 1


def _quotas(keys: RowKeys, size: int) -> Ints:
    """Conflicts [n] that a row of `shared` keys meets in a batch of evenly spread rows, 0 where they are below 4.

    A row that meets others in any batch (an answer that a tenth of all questions share) is not deferred for as many as
    that, or its like would fill the last batches alone. Two rows that know each other are two conflicts.
    """
    if not len(keys):
        return np.zeros(0, dtype=np.int64)
    documents, relevant = keys.documents, keys.relevant
    total = 1 + max(-1, *(int(ids.values.max(initial=-1)) for ids in (documents, relevant)))
    rows = np.bincount(keys.query, minlength=len(relevant.counts))
    bring = np.bincount(documents.values, minlength=total)
    know = np.bincount(relevant.values, weights=rows[relevant.owner], minlength=total)
    known = np.bincount(documents.owner, weights=know[documents.values], minlength=len(keys))
    brought = np.bincount(relevant.owner, weights=bring[relevant.values], minlength=len(relevant.counts))
    expected = (known + brought[keys.query]) * (size / len(keys))
    return np.where(expected >= 4, np.ceil(expected), 0).astype(np.int64)


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
