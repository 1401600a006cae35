"""An epoch as an artifact: global batches in the order of training, their rows assigned to logical slots.

Tasks are pure functions over Arrow tables. Rows are staged in buckets by ranges of their position in the epoch's order;
each bucket is composed by itself; rows left over in a bucket are composed once more with those of other buckets, until
one bucket is left, whose last batch may be short. The number of buckets follows the rows, never the
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
from training.data.batching import Ints, Words, assign_slots, compose_batches, select_rows
from training.data.relevance import RELEVANT, add_relevant, distinct_queries, in_buckets, row_keys
from training.data.tokenized import SCHEMA, sample_negatives, token_counts

BUCKET_TOKENS = 16 << 20  # of a bucket: 64 MB
GROUP_TOKENS = 1 << 20  # of a row group
ORDERED = SCHEMA.append(pa.field("position", pa.uint64()))
KEYS = ["query_id", "positive_id", "negatives"]  # by which batches are composed
BUCKET = pa.field("bucket", pa.uint64())
RELEVANT_TO = "relevant"  # ends the name of what is staged of the queries of rows
LEFT_OUT = pa.schema([("row", pa.int64()), ("stream", pa.string()), ("reason", pa.string())])
REPLAY = "replay"  # the stream of replayed rows

Buckets = dict[str, int]  # how many each stream has


@dataclass(frozen=True)
class EpochSettings:
    """Settings that, with the rows, decide every epoch."""

    batch_size: int  # rows of a global batch
    seed: int
    slots: int = 12
    max_negatives: int | None = None  # of a row
    resample: bool = True  # other negatives each epoch, where a row has more
    replay: float | None = None  # share of the batches that come from the replayed stream

    def bucket_rows(self, tokens: float) -> int:
        """Rows of a bucket, for rows of so many tokens on average."""
        return max(8 * self.batch_size, int(BUCKET_TOKENS / max(1.0, tokens)))

    def group_steps(self, tokens: float) -> int:
        """Steps of a row group, for rows of so many tokens on average."""
        return max(1, int(min(8192, GROUP_TOKENS / max(1.0, tokens)) / self.batch_size))


@dataclass(frozen=True)
class Pass:
    """One pass over some streams of the rows, in an order of its own."""

    files: list[str]  # of the rows
    relevant: list[str]  # files of their queries, one beside each file of rows
    settings: EpochSettings
    seed: int
    epoch: int
    shuffle: Shuffle
    out: str
    name: str
    buckets: Buckets
    fan_in: int  # buckets whose remaining rows make one bucket of the next level
    group_steps: int  # of a row group

    def stage(self, part: int) -> Counts:
        """Stage the rows of one file by their position in the order of the epoch."""
        table, relevant = _read_table(self.files[part]), _read_table(self.relevant[part])
        tally = Counts()
        for stream, count in self.buckets.items():
            in_stream = pc.equal(table["stream"], stream)
            rows = table if pc.all(in_stream).as_py() else table.filter(in_stream)
            share = rows["share"].to_numpy()
            once = bool((share == 1).all())
            index, position = select_rows(rows["row"].to_numpy(), None if once else share, self.seed, self.epoch)
            tally.counts["skipped"] += 0 if once else len(rows) - len(np.unique(index))
            rows = self._sample_negatives(rows if once else rows.take(pa.array(index)))
            bucket = _bucket(position, count)
            staged = rows.append_column("position", pa.array(position)).append_column("bucket", pa.array(bucket))
            queries = in_buckets(relevant, rows["query_id"].to_numpy(), bucket)
            shuffle, name = Shuffle(self.shuffle.path, count), self._staged(stream, 0, 0)
            shuffle.write(name, f"{part:06d}", staged, by="bucket")
            shuffle.write(f"{name}-{RELEVANT_TO}", f"{part:06d}", queries, by="bucket")
        return tally

    def _sample_negatives(self, rows: pa.Table) -> pa.Table:
        """Rows with those of their negatives that this epoch uses."""
        return sample_negatives(
            rows, self.settings.max_negatives, self.settings.seed, self.epoch if self.settings.resample else None
        )

    def level(self, level: int, buckets: Buckets, number: int) -> Counts:
        """Compose one bucket of a level and write its batches; stage the remaining rows for the next level.

        At the last level they are listed as left out, with the reason.
        """
        stream, bucket = _bucket_of_task(buckets, number)
        table, relevant = self._read(stream, level, bucket)
        last = buckets[stream] == 1
        order = np.lexsort((table["row"].to_numpy(), table["position"].to_numpy()))
        keys = row_keys(table.select(KEYS).take(pa.array(order)), relevant)
        composed = compose_batches(keys, self.settings.batch_size, last=last and stream != REPLAY)
        tally = Counts()
        if composed.batches:
            batches, query = [order[batch] for batch in composed.batches], np.empty_like(keys.query)
            query[order] = keys.query
            self._write(table, relevant, query, batches, self.part(stream, level, bucket), tally)
        if not last:
            remaining = table.take(pa.array(order[np.sort(composed.left_out)]))
            to = np.zeros(len(remaining), np.uint64)
            queries = in_buckets(relevant, remaining["query_id"].to_numpy(), to)
            next_level, name = Shuffle(self.shuffle.path, 1), self._staged(stream, level + 1, bucket // self.fan_in)
            next_level.write(name, f"{bucket:06d}", remaining.append_column("bucket", pa.array(to)), by="bucket")
            next_level.write(f"{name}-{RELEVANT_TO}", f"{bucket:06d}", queries, by="bucket")
        else:
            self._write_left_out(table, stream, order[composed.remainder], order[composed.deferred], tally)
        return tally

    def part(self, stream: str, level: int, bucket: int) -> str:
        """Name of the file that holds the batches of a bucket; names rise in the order of the steps."""
        return f"{self.name}-{stream_name(stream)}-{level}-{bucket:06d}"

    def above(self, buckets: Buckets) -> Buckets:
        """Buckets of the next level."""
        return {stream: math.ceil(count / self.fan_in) for stream, count in buckets.items() if count > 1}

    def _staged(self, stream: str, level: int, bucket: int) -> str:
        return f"{self.name}-{stream_name(stream)}-{level}" + (f"-{bucket:06d}" if level else "")

    def _read(self, stream: str, level: int, bucket: int) -> tuple[pa.Table, pa.Table]:
        """Rows of a bucket, and their queries in order of ids."""
        shuffle = Shuffle(self.shuffle.path, 1 if level else self.buckets[stream])
        name, part = self._staged(stream, level, bucket), 0 if level else bucket
        table = shuffle.read(name, part, ORDERED.append(BUCKET)).drop_columns(["bucket"]).combine_chunks()
        relevant = shuffle.read(f"{name}-{RELEVANT_TO}", part, RELEVANT.append(BUCKET)).drop_columns(["bucket"])
        return table, distinct_queries(relevant)

    def _write(
        self, table: pa.Table, relevant: pa.Table, query: Ints, batches: list[Ints], name: str, tally: Counts
    ) -> None:
        """Write batches in order of (step, slot); the last may be short. `query` are the rows of `relevant`."""
        costs = token_counts(table)
        index, step, slot = layout(batches, costs, self.settings.batch_size, self.settings.slots)
        dealt = add_relevant(
            table.take(pa.array(index)).drop_columns(["share", "position"]), step, relevant, query[index]
        )
        dealt = dealt.append_column("step", pa.array(step, pa.int32()))
        dealt = dealt.append_column("slot", pa.array(slot, pa.int16()))
        write_parquet(join(self.out, "rows", f"{name}.parquet"), dealt, self.group_steps * self.settings.batch_size)
        short = len(index) % self.settings.batch_size
        tally.counts.update(full=len(batches) - bool(short), short=int(bool(short)), short_rows=short, rows=len(index))
        tally.counts["tokens"] += int(costs[index].sum())

    def _write_left_out(self, table: pa.Table, stream: str, remainder: Ints, deferred: Ints, tally: Counts) -> None:
        if stream == REPLAY:
            return
        index = np.concatenate([remainder, deferred])
        if not len(index):
            return
        reasons = ["short_batch"] * len(remainder) + ["known_positive"] * len(deferred)
        left = pa.table([table["row"].take(index), table["stream"].take(index), pa.array(reasons)], schema=LEFT_OUT)
        write_parquet(join(self.out, "left_out", f"{self.name}-{stream_name(stream)}.parquet"), left)
        tally.drop("short_batch", len(remainder))
        tally.drop("known_positive", len(deferred))


def layout(batches: list[Ints], costs: Ints, size: int, slots: int) -> tuple[Ints, Ints, Ints]:
    """Row, step and slot of every row of the batches, in order of (step, slot); only the last batch may be short."""
    full = [batch for batch in batches if len(batch) == size]
    parts: list[list[Ints]] = []
    for rows in (np.array(full, dtype=np.int64).reshape(-1, size), *(batch[None] for batch in batches[len(full) :])):
        slot = assign_slots(costs[rows], slots)
        order = np.argsort(slot, axis=1, kind="stable")
        step = np.repeat(np.arange(len(rows)) + len(full) * len(parts), rows.shape[1])
        parts.append(
            [np.take_along_axis(rows, order, axis=1).ravel(), step, np.take_along_axis(slot, order, 1).ravel()]
        )
    index, step, slot = (np.concatenate(part) for part in zip(*parts, strict=True))
    return index, step, slot


def stream_name(stream: str) -> str:
    """Name of a stream as part of a file name."""
    return "".join(letter if letter.isalnum() else f"_{ord(letter):x}" for letter in stream) or "own"


def _bucket(position: Words, count: int) -> Words:
    """The bucket [n] of each row: buckets are equal ranges of the position."""
    return ((position >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)


def _read_table(path: str) -> pa.Table:
    with open_parquet(path) as file:
        return file.read()


def _bucket_of_task(buckets: Buckets, number: int) -> tuple[str, int]:
    """Stream and bucket of the task with this number."""
    for stream, count in buckets.items():
        if number < count:
            return stream, number
        number -= count
    raise AssertionError(f"no bucket {number}")


RunTasks = Callable[[str, int, Callable[[int], Counts]], list[Counts]]


def run_in_process(_: str, count: int, task: Callable[[int], Counts]) -> list[Counts]:
    """Run tasks one after the other in this process, where rows are so few that starting Ray tasks takes longer."""
    return [task(number) for number in range(count)]
