"""An epoch as an artifact: global batches in the order in which they are trained on, dealt to logical slots.

Tasks are pure functions over Arrow tables. Rows are staged in buckets by ranges of their place in the epoch's order;
each bucket is composed by itself; what finds no full batch in its bucket is composed once more with the leftovers of
others, until one bucket is left, whose last batch may be short. The number of buckets follows the rows, never the
machine: the artifact is the same whatever the number of CPUs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.counts import Counts
from pipeline.storage.files import join, open_parquet, write_parquet
from pipeline.storage.shuffle import Shuffle
from training.data.batching import Ints, compose, deal, taken
from training.data.tokenized import SCHEMA, cost, drawn, keys

BUCKET_TOKENS = 16 << 20  # a bucket's texts: 64 MB
GROUP_TOKENS = 1 << 20  # a row group's
PLACED = SCHEMA.append(pa.field("place", pa.uint64()))
LEFT = pa.schema([("row", pa.int64()), ("stream", pa.string()), ("reason", pa.string())])
REPLAY = "replay"  # the stream of replayed rows

Buckets = dict[str, int]  # of each stream


@dataclass(frozen=True)
class Recipe:
    """What decides the epochs of given rows."""

    size: int  # rows of a global batch
    seed: int
    slots: int = 12
    negatives: int | None = None  # of each row, at most
    fresh: bool = True  # other negatives each epoch, where a row has more
    replay: float | None = None  # share of the batches that are of the replayed stream

    def bucket_rows(self, tokens: float) -> int:
        """Rows of a bucket, where a row has so many tokens on average."""
        return max(8 * self.size, int(BUCKET_TOKENS / max(1.0, tokens)))

    def group_steps(self, tokens: float) -> int:
        """Steps of a row group."""
        return max(1, int(min(8192, GROUP_TOKENS / max(1.0, tokens)) / self.size))


@dataclass(frozen=True)
class Pass:
    """One pass over some streams of the rows in a fresh order."""

    files: list[str]  # of the rows
    recipe: Recipe
    seed: int
    epoch: int
    exchange: Shuffle
    out: str
    name: str
    buckets: Buckets
    fan: int  # buckets whose leftovers make one bucket of the next level
    group_steps: int  # of a row group

    def stage(self, part: int) -> Counts:
        """Stage the rows of one file by their place in the order of the epoch."""
        with open_parquet(self.files[part]) as file:
            whole = file.read()
        tally = Counts()
        for stream, count in self.buckets.items():
            mine = pc.equal(whole["stream"], stream)
            rows = whole if pc.all(mine).as_py() else whole.filter(mine)
            share = rows["share"].to_numpy()
            once = bool((share == 1).all())
            index, place = taken(rows["row"].to_numpy(), None if once else share, self.seed, self.epoch)
            tally.counts["skipped"] += 0 if once else len(rows) - len(np.unique(index))
            rows = self._drawn(rows if once else rows.take(pa.array(index)))
            staged = _bucketed(rows.append_column("place", pa.array(place)), place, count)
            exchange = Shuffle(self.exchange.path, count)
            exchange.write(self._staged(stream, 0, 0), f"{part:06d}", staged, by="bucket")
        return tally

    def _drawn(self, rows: pa.Table) -> pa.Table:
        """Rows with those of their negatives that this epoch takes."""
        return drawn(rows, self.recipe.negatives, self.recipe.seed, self.epoch if self.recipe.fresh else None)

    def level(self, level: int, buckets: Buckets, number: int) -> Counts:
        """Compose one bucket of a level and write its batches; pass on what is left, or list it at the last level."""
        stream, bucket = _nth(buckets, number)
        table = self._read(stream, level, bucket)
        last = buckets[stream] == 1
        table = table.take(pa.array(np.lexsort((table["row"].to_numpy(), table["place"].to_numpy()))))
        found = compose(keys(table), self.recipe.size, last=last and stream != REPLAY)
        tally = Counts()
        if found.batches:
            self._write(table, found.batches, self.part(stream, level, bucket), tally)
        if not last:
            rest = table.take(pa.array(np.sort(found.left_out)))
            rest = rest.append_column("bucket", pa.array(np.zeros(len(rest), np.uint64)))
            onward = Shuffle(self.exchange.path, 1)
            onward.write(self._staged(stream, level + 1, bucket // self.fan), f"{bucket:06d}", rest, by="bucket")
        else:
            self._leave(table, stream, found.rest, found.waiting, tally)
        return tally

    def part(self, stream: str, level: int, bucket: int) -> str:
        """Name of the file that holds the batches of a bucket; names rise in the order of the steps."""
        return f"{self.name}-{stream_name(stream)}-{level}-{bucket:06d}"

    def above(self, buckets: Buckets) -> Buckets:
        """Buckets of the next level."""
        return {stream: math.ceil(count / self.fan) for stream, count in buckets.items() if count > 1}

    def _staged(self, stream: str, level: int, bucket: int) -> str:
        return f"{self.name}-{stream_name(stream)}-{level}" + (f"-{bucket:06d}" if level else "")

    def _read(self, stream: str, level: int, bucket: int) -> pa.Table:
        schema = PLACED.append(pa.field("bucket", pa.uint64()))
        exchange = Shuffle(self.exchange.path, 1 if level else self.buckets[stream])
        table = exchange.read(self._staged(stream, level, bucket), 0 if level else bucket, schema)
        return table.drop_columns(["bucket"]).combine_chunks()

    def _write(self, table: pa.Table, batches: list[Ints], name: str, tally: Counts) -> None:
        """Write batches in order of (step, slot); the last may be short."""
        costs = cost(table)
        index, step, slot = laid(batches, costs, self.recipe.size, self.recipe.slots)
        dealt = table.take(pa.array(index)).drop_columns(["share", "place"])
        dealt = dealt.append_column("step", pa.array(step, pa.int32()))
        dealt = dealt.append_column("slot", pa.array(slot, pa.int16()))
        write_parquet(join(self.out, "rows", f"{name}.parquet"), dealt, self.group_steps * self.recipe.size)
        short = len(index) % self.recipe.size
        tally.counts.update(full=len(batches) - bool(short), short=int(bool(short)), short_rows=short, rows=len(index))
        tally.counts["tokens"] += int(costs[index].sum())

    def _leave(self, table: pa.Table, stream: str, rest: Ints, waiting: Ints, tally: Counts) -> None:
        if stream == REPLAY:
            return
        index = np.concatenate([rest, waiting])
        if not len(index):
            return
        reasons = ["short_batch"] * len(rest) + ["known_positive"] * len(waiting)
        left = pa.table([table["row"].take(index), table["stream"].take(index), pa.array(reasons)], schema=LEFT)
        write_parquet(join(self.out, "left", f"{self.name}-{stream_name(stream)}.parquet"), left)
        tally.drop("short_batch", len(rest))
        tally.drop("known_positive", len(waiting))


def laid(batches: list[Ints], costs: Ints, size: int, slots: int) -> tuple[Ints, Ints, Ints]:
    """Rows of batches in order of (step, slot), and the step and slot of each; only the last batch may be short."""
    full = [one for one in batches if len(one) == size]
    found: list[list[Ints]] = []
    for rows in (np.array(full, dtype=np.int64).reshape(-1, size), *(one[None] for one in batches[len(full) :])):
        slot = deal(costs[rows], slots)
        order = np.argsort(slot, axis=1, kind="stable")
        step = np.repeat(np.arange(len(rows)) + len(full) * len(found), rows.shape[1])
        found.append(
            [np.take_along_axis(rows, order, axis=1).ravel(), step, np.take_along_axis(slot, order, 1).ravel()]
        )
    index, step, slot = (np.concatenate(part) for part in zip(*found, strict=True))
    return index, step, slot


def stream_name(stream: str) -> str:
    """A stream as part of a file's name."""
    return "".join(letter if letter.isalnum() else f"_{ord(letter):x}" for letter in stream) or "own"


def _bucketed(rows: pa.Table, place: np.ndarray, count: int) -> pa.Table:
    """Rows with the number of their bucket: equal ranges of the place."""
    bucket = ((place >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
    return rows.append_column("bucket", pa.array(bucket))


def _nth(buckets: Buckets, number: int) -> tuple[str, int]:
    """Stream and bucket of a task."""
    for stream, count in buckets.items():
        if number < count:
            return stream, number
        number -= count
    raise AssertionError(f"no bucket {number}")


Spread = Callable[[str, int, Callable[[int], Counts]], list[Counts]]


def here(_: str, count: int, task: Callable[[int], Counts]) -> list[Counts]:
    """Run tasks one after the other in this process: for rows so few that Ray would take longer to start them."""
    return [task(number) for number in range(count)]
