"""Compose an epoch: passes over the rows, the order of the steps among streams, and the manifest, written last."""

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact, Draft
from pipeline.storage.counts import Counts
from pipeline.storage.files import join, remove_folder
from pipeline.storage.shuffle import Shuffle
from pipeline.text.normalize import stable_id
from training.data.epoch import REPLAY, Buckets, EpochSettings, Pass, RunTasks, run_in_process

STEPS = pa.schema([("step", pa.int64()), ("file", pa.int32()), ("index", pa.int32()), ("rows", pa.int32())])

WARN_LEFT_OUT, MAX_LEFT_OUT = 0.05, 0.5  # shares of an epoch's rows that are in no batch


@dataclass(frozen=True)
class StreamSteps:
    """Batches of one stream: the files that hold them, how many are in each, and the rows of a short last one, or 0."""

    files: list[str]
    counts: list[int]
    short: int = 0

    @classmethod
    def from_counts(cls, files: list[tuple[str, Counts]]) -> "StreamSteps":
        """Make the steps of files in order, from what was counted in each."""
        counts = [tally.counts["full"] + tally.counts["short"] for _, tally in files]
        return cls([name for name, _ in files], counts, sum(tally.counts["short_rows"] for _, tally in files))

    @property
    def steps(self) -> int:
        """Number of batches."""
        return sum(self.counts)

    def first(self, count: int) -> "StreamSteps":
        """The first `count` batches."""
        before = np.cumsum([0, *self.counts])[:-1]
        return StreamSteps(self.files, np.clip(count - before, 0, self.counts).tolist())


def compose_epoch(
    rows: Artifact, settings: EpochSettings, number: int, path: str, run_tasks: RunTasks = run_in_process
) -> Artifact:
    """Compose an epoch of an artifact of rows at `path`, or return it if it exists.

    Raises UserError where the rows do not fill a batch.
    """
    config = {**asdict(settings), "epoch": number}
    draft = artifact.begin(
        path,
        "epoch",
        config,
        {"rows": rows.manifest.fingerprint},
        overwrite=True,
        resume=run_tasks is not run_in_process,
        exclusive=False,
    )
    if isinstance(draft, Artifact):
        return draft
    notes = rows.manifest.notes
    streams = {name: about for name, about in notes["streams"].items() if name != REPLAY}
    total = Counts()
    stream_steps = _run_pass(_make_pass(rows, settings, number, draft, streams, "0", settings.seed), run_tasks, total)
    if not any(steps.steps for steps in stream_steps):
        raise UserError(f"training rows: {notes['rows']} are too few for a batch of {settings.batch_size}")
    total.drop("not_this_epoch", total.counts["skipped"])
    if settings.replay:
        stream_steps.append(
            _replay_steps(rows, settings, number, draft, sum(steps.steps for steps in stream_steps), run_tasks)
        )
    return _finish(draft, settings, stream_steps, total, rows)


def group_steps(rows: Artifact, settings: EpochSettings) -> int:
    """Steps of a row group of an epoch."""
    notes = rows.manifest.notes
    return settings.group_steps(notes["tokens"] / max(1, notes["rows"]))


def _make_pass(
    rows: Artifact, settings: EpochSettings, number: int, draft: Draft, streams: dict[str, Any], name: str, seed: int
) -> Pass:
    """Make a pass over some streams; its files begin with `name`."""
    rows_in_streams = sum(stream["rows"] for stream in streams.values())
    tokens = sum(stream["tokens"] for stream in streams.values()) / max(1, rows_in_streams)
    size = settings.bucket_rows(tokens)
    buckets: Buckets = {key: max(1, math.ceil(stream["taken"] / size)) for key, stream in sorted(streams.items())}
    return Pass(
        rows.files("rows"),
        rows.files("relevant"),
        settings,
        seed,
        number,
        Shuffle(join(draft.path, "staging"), 1),
        draft.path,
        name,
        buckets,
        max(2, size // settings.batch_size),
        group_steps(rows, settings),
    )


def _run_pass(epoch_pass: Pass, run_tasks: RunTasks, total: Counts) -> list[StreamSteps]:
    """Run a pass and return the steps of each stream."""
    for tally in run_tasks(f"{epoch_pass.name}-stage", len(epoch_pass.files), epoch_pass.stage):
        total.add(tally)
    files: dict[str, list[tuple[str, Counts]]] = {stream: [] for stream in epoch_pass.buckets}
    buckets, level = epoch_pass.buckets, 0
    while buckets:
        tallies = iter(
            run_tasks(f"{epoch_pass.name}-{level}", sum(buckets.values()), partial(epoch_pass.level, level, buckets))
        )
        for stream, count in buckets.items():
            for bucket, tally in zip(range(count), tallies, strict=False):
                total.add(tally)
                if tally.counts["rows"]:
                    files[stream].append((epoch_pass.part(stream, level, bucket), tally))
        buckets, level = epoch_pass.above(buckets), level + 1
    return [StreamSteps.from_counts(parts) for parts in files.values()]


def _replay_steps(
    rows: Artifact, settings: EpochSettings, number: int, draft: Draft, own_steps: int, run_tasks: RunTasks
) -> StreamSteps:
    """Full batches of the replayed stream, a fixed share of all steps, from as many passes over its rows as needed."""
    share = settings.replay or 0.0
    ideal = own_steps * share / (1 - share)
    count = math.floor((number + 1) * ideal + 0.5) - math.floor(number * ideal + 0.5)
    steps, turn = StreamSteps([], []), 0
    about = {REPLAY: rows.manifest.notes["streams"][REPLAY]}
    while steps.steps < count:
        seed = stable_id(f"{settings.seed}/replay/{turn}")
        (more,) = _run_pass(
            _make_pass(rows, settings, number, draft, about, f"1-{turn:04d}", seed), run_tasks, Counts()
        )
        if not more.steps:
            raise UserError(
                f"replay: {about[REPLAY]['rows']} rows do not fill a batch of {settings.batch_size}; lower "
                "loop.batch_size or replay a bigger corpus"
            )
        steps, turn = StreamSteps(steps.files + more.files, steps.counts + more.counts), turn + 1
    return steps.first(count)


def _check_left_out(total: Counts, batch_size: int) -> None:
    """Warn where more than a twentieth of an epoch's rows found no batch, refuse where more than half of them did."""
    left = {reason: count for reason, count in total.dropped.items() if reason != "not_this_epoch" and count}
    count, trained = sum(left.values()), total.counts["rows"]
    if not count:
        return
    share = count / (count + trained)
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in left.items())
    message = (
        f"{count:,} of {count + trained:,} training rows ({share:.0%}) are in no batch of {batch_size} ({reasons}); "
        "lower loop.batch_size"
    )
    if share > MAX_LEFT_OUT:
        raise UserError(message)
    if share > WARN_LEFT_OUT:
        say(f"train: warning: {message}")


def _finish(
    draft: Draft, settings: EpochSettings, streams: list[StreamSteps], total: Counts, rows: Artifact
) -> Artifact:
    """Write the order of the steps and the manifest."""
    names = sorted(name for steps in streams for name in steps.files)
    table = interleave(streams, [[names.index(name) for name in steps.files] for steps in streams], settings.batch_size)
    draft.write("steps", table)
    draft.drop(total.dropped)
    _check_left_out(total, settings.batch_size)
    remove_folder(join(draft.path, "staging"))
    return draft.finish(
        ["rows", "steps", "left_out"],
        steps=len(table),
        tokens=total.counts["tokens"],
        group_steps=group_steps(rows, settings),
        size=settings.batch_size,
        slots=settings.slots,
        columns=rows.manifest.notes["columns"],
    )


def interleave(streams: list[StreamSteps], numbers: list[list[int]], size: int) -> pa.Table:
    """Order the steps of all streams: those of a stream keep their order, spread among the others; short ones last."""
    parts = []
    for stream, (steps, files) in enumerate(zip(streams, numbers, strict=True)):
        batch_rows = np.full(steps.steps, size, dtype=np.int64)
        batch_rows[steps.steps - bool(steps.short) :] = steps.short
        within = np.concatenate([np.zeros(0, np.int64), *map(np.arange, steps.counts)])
        far = (np.arange(steps.steps) + 0.5) / max(1, steps.steps)
        parts.append(
            [batch_rows < size, far, np.full(steps.steps, stream), np.repeat(files, steps.counts), within, batch_rows]
        )
    short, at, order, file, index, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    ranked = np.lexsort((order, at, short))
    columns = [np.arange(len(ranked)), *(column[ranked].astype(np.int64) for column in (file, index, rows))]
    return pa.table(
        [pa.array(column).cast(field.type) for column, field in zip(columns, STEPS, strict=True)], schema=STEPS
    )
