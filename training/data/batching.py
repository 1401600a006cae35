"""Global batches as a pure function of (rows, seed, epoch), never of the number of ranks or of the machine.

Rows are shuffled by a hash, then batches are filled in that order. Inside one global batch no document is the positive
or negative of a row to whose query it is a known positive: such rows wait for a later batch.
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


def spread(values: Words, salt: str) -> Words:
    """Hash 64-bit values: the finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        x = values + np.uint64(stable_id(salt))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def taken(rows: Ints, share: Floats | None, seed: int, epoch: int) -> tuple[Ints, Words]:
    """Which of the rows with these numbers [n] an epoch takes, and the place of each in its order [m], a hash.

    A row of share s is taken floor((epoch + 1) s + u) - floor(epoch s + u) times, with u in [0, 1) of hash(seed, row):
    with s = 0.25 every fourth epoch, a fourth of the rows each, with s = 2 twice. Returned are indices into `rows`.
    """
    index = np.arange(len(rows), dtype=np.int64)
    place = rows.astype(np.uint64)
    if share is not None:
        start = (spread(place, f"{seed}/share") >> np.uint64(11)).astype(np.float64) / 2**53
        times = np.floor((epoch + 1) * share + start) - np.floor(epoch * share + start)
        index = np.repeat(index, times.astype(np.int64))
        first = np.concatenate([[True], index[1:] != index[:-1]])[: len(index)]
        copy = np.arange(len(index)) - np.maximum.accumulate(np.where(first, np.arange(len(index)), 0))
        place = place[index] + (copy.astype(np.uint64) << np.uint64(40))
    return index, spread(place, f"{seed}/{epoch}")


def order(rows: Ints, share: Floats | None, seed: int, epoch: int) -> Ints:
    """Row numbers in the order of an epoch: a fresh shuffle each epoch, the same on every machine."""
    index, place = taken(rows, share, seed, epoch)
    shuffled: Ints = rows[index[np.argsort(place, kind="stable")]]
    return shuffled


def chosen(rows: Ints, counts: Ints, most: int, seed: int, epoch: int) -> npt.NDArray[np.bool_]:
    """Mark `most` of every row's given negatives, others each epoch: those of the lowest hash(seed, epoch, row, place).

    `counts` [n] are the negatives that each row has; the mask is over all of them in order.
    """
    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(rows)), counts)
    nth = np.arange(len(owner)) - starts[owner]
    key = spread(rows[owner].astype(np.uint64) + (nth.astype(np.uint64) << np.uint64(40)), f"{seed}/{epoch}/negatives")
    ranked = np.lexsort((key, owner))
    mask = np.zeros(len(owner), dtype=bool)
    mask[ranked[nth < most]] = True  # within a row, places and ranks are the same numbers
    return mask


@dataclass(frozen=True)
class Ragged:
    """Values of n rows laid end to end; those of row i are values[ends[i - 1] : ends[i]]."""

    values: Ints
    counts: Ints

    @classmethod
    def of(cls, rows: list[Ints]) -> "Ragged":
        """Lay lists end to end."""
        return cls(np.concatenate([np.zeros(0, np.int64), *rows]), np.array([len(row) for row in rows], np.int64))

    @property
    def owner(self) -> Ints:
        """Row of every value."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def lists(self, rows: Ints) -> list[list[int]]:
        """Values of the given rows."""
        ends = np.cumsum(self.counts)
        starts = (ends - self.counts)[rows].tolist()
        return [self.values[a:b].tolist() for a, b in zip(starts, ends[rows].tolist(), strict=True)]


@dataclass(frozen=True)
class Keys:
    """What composition must know of n rows, in the order of their epoch: 64-bit ids, below 0 for none.

    `documents` are those that a row brings into its batch, positive and negatives; `relevant` those that are known to
    be relevant to its query.
    """

    documents: Ragged
    relevant: Ragged

    def __len__(self) -> int:
        return len(self.documents.counts)

    def hot(self) -> npt.NDArray[np.bool_]:
        """Rows [n] that could not share a batch with some other row of these."""
        values = np.concatenate([self.documents.values, self.relevant.values])
        if not len(values):
            return np.zeros(len(self), dtype=bool)
        number = pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)
        cut = len(self.documents.values)
        docs, known = (number[:cut], self.documents.owner), (number[cut:], self.relevant.owner)
        docs, known = (
            (one[0][part >= 0], one[1][part >= 0])
            for one, part in ((docs, self.documents.values), (known, self.relevant.values))
        )
        found = np.zeros(len(self), dtype=bool)
        for (ids, owner), (others, beside) in ((docs, known), (known, docs)):
            least, most = _range(others, beside, int(number.max()) + 1)
            found[owner[((least[ids] != owner) | (most[ids] != owner)) & (most[ids] >= 0)]] = True
        return found


def _range(ids: Ints, owner: Ints, count: int) -> tuple[Ints, Ints]:
    """First and last row [count] in which each id stands; (huge, -1) for none."""
    least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, -1, dtype=np.int64)
    np.minimum.at(least, ids, owner)
    np.maximum.at(most, ids, owner)
    return least, most


@dataclass(frozen=True)
class Epoch:
    """Global batches of rows by their places in `Keys`, and the places that found no batch.

    `rest` were too few for a batch; `waiting` would have been false negatives, or made some, in the last ones.
    """

    batches: list[Ints]
    rest: Ints
    waiting: Ints

    @property
    def left_out(self) -> Ints:
        """Places without a batch."""
        return np.concatenate([self.rest, self.waiting])


def compose(keys: Keys, size: int, *, last: bool = True) -> Epoch:
    """Fill global batches of `size` rows in order; a row that would be a false negative waits for a later one.

    Waiting rows come first in the next batch. With `last` a short batch may end the epoch: below a quarter of `size`
    (and whenever its rows are fewer than 2) it is left out. Rows without a possible conflict are taken in whole runs.
    """
    filler = _Filler(keys, size)
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
    return Epoch(batches, batch, np.array(filler.waiting, dtype=np.int64))


class _Filler:
    """Fills one batch after the other; only hot rows are looked at one by one."""

    def __init__(self, keys: Keys, size: int) -> None:
        hot = np.flatnonzero(keys.hot())
        self.size, self.count, self.at, self.waiting = size, len(keys), 0, list[int]()
        self.hot, self.next = hot.tolist(), 0
        self.hot.append(self.count)
        self.documents = dict(zip(self.hot, keys.documents.lists(hot), strict=False))
        self.relevant = dict(zip(self.hot, map(_some, keys.relevant.lists(hot)), strict=False))

    def runs(self) -> list[Ints]:
        """Take the full batches before the next hot row."""
        count = 0 if self.waiting else (self.hot[self.next] - self.at) // self.size
        start, self.at = self.at, self.at + count * self.size
        return list(np.arange(start, self.at, dtype=np.int64).reshape(count, self.size))

    def fill(self) -> Ints:
        """One batch from the waiting rows first, then fresh ones."""
        batch: list[int] = []
        documents, relevant, still = set[int](), set[int](), list[int]()

        def place(row: int) -> None:
            mine, known = self.documents[row], self.relevant[row]
            if relevant.isdisjoint(mine) and documents.isdisjoint(known):
                batch.append(row)
                documents.update(mine)
                relevant.update(known)
            else:
                still.append(row)

        tried = 0
        while tried < len(self.waiting) and len(batch) < self.size:
            place(self.waiting[tried])
            tried += 1
        still += self.waiting[tried:]
        while len(batch) < self.size and self.at < self.count:
            run = min(self.size - len(batch), self.hot[self.next] - self.at)
            batch.extend(range(self.at, self.at + run))
            self.at += run
            if len(batch) < self.size and self.at < self.count:
                place(self.at)
                self.at, self.next = self.at + 1, self.next + 1
        self.waiting = still
        return np.array(batch, dtype=np.int64)


def _some(ids: list[int]) -> list[int]:
    return [one for one in ids if one >= 0]


def deal(cost: Ints, slots: int) -> Ints:
    """Slots [m, B] of the rows of m batches with costs [m, B], so that they balance however ranks divide them.

    The costliest row comes first and takes the slot that has the least, where what counts is not its own load alone
    but that of every rank it may belong to: of W ranks, rank `slot % W` has it. Greedy after Graham 1969 (LPT).
    """
    batches, size = cost.shape
    falling = np.argsort(-cost, axis=1, kind="stable")
    every, slot = np.arange(batches), np.empty_like(falling)
    number = np.arange(slots)
    ways = [ranks for ranks in range(2, slots + 1) if slots % ranks == 0] or [1]
    shared = sum(ranks * (number[:, None] % ranks == number % ranks).astype(np.int64) for ranks in ways)
    load = np.zeros((batches, slots), dtype=np.int64)
    for nth in range(size):
        row = falling[:, nth]
        least = load.argmin(axis=1)
        slot[every, row] = least
        load += cost[every, row][:, None] * shared[least]
    return slot
